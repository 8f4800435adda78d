"""A config's baselines, by what a run does with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from configs.blocks.baselines import (
    Baseline,
    Baselines,
    DistilledBaseline,
    ModelBaseline,
    OpdBaseline,
    OpdMoreBaseline,
    OracleBaseline,
    ScoredBaseline,
    SftBaseline,
    TeacherMoreBaseline,
    TrainedBaseline,
    WeightBaseline,
)
from configs.blocks.experts import Expert, RLExpert
from configs.polish import Polish


class DeclaredBaselines:
    """The part of a config that answers questions about its `baselines`."""

    if TYPE_CHECKING:  # at run time it would become a field of the config
        baselines: Baselines
        polish: Polish | None

    def trains_opd(self) -> bool:
        """Whether the baseline `opd` is trained."""
        return any(isinstance(baseline, OpdBaseline) for baseline in self.baselines)

    def compares_oracle(self) -> bool:
        """Whether the routed oracle is shown."""
        return any(isinstance(baseline, OracleBaseline) for baseline in self.baselines)

    def teacher_more(self) -> TeacherMoreBaseline | None:
        """The control of the polish, if it is trained."""
        found = (baseline for baseline in self.baselines if isinstance(baseline, TeacherMoreBaseline))
        return next(found, None)

    def opd_more(self) -> OpdMoreBaseline | None:
        """The control of the polish that is distilled on, if it is trained."""
        found = (baseline for baseline in self.baselines if isinstance(baseline, OpdMoreBaseline))
        return next(found, None)

    def further_models(self) -> int:
        """Models that the run makes beside the student and are of its size: the distilled one, baselines."""
        return len(self.model_baselines()) + (self.polish is not None)

    def model_baselines(self) -> tuple[ModelBaseline, ...]:
        """The baselines that are a model of their own, in the order of the config."""
        return tuple(baseline for baseline in self.baselines if isinstance(baseline, ModelBaseline))

    def distilled_baselines(self) -> tuple[DistilledBaseline, ...]:
        """The baselines that are the merge's training at another lambda."""
        return tuple(baseline for baseline in self.baselines if isinstance(baseline, DistilledBaseline))

    def scored_baselines(self) -> tuple[ScoredBaseline, ...]:
        """The baselines whose rollouts teachers score."""
        return tuple(baseline for baseline in self.baselines if isinstance(baseline, ScoredBaseline))

    def trained_baselines(self) -> tuple[TrainedBaseline, ...]:
        """The baselines that are trained."""
        return tuple(baseline for baseline in self.baselines if isinstance(baseline, TrainedBaseline))

    def baselines_of_folders(self) -> tuple[Baseline, ...]:
        """The baselines that read the experts' folders: their weights, or to sample their answers here."""
        read = WeightBaseline | SftBaseline
        return tuple(baseline for baseline in self.baselines if isinstance(baseline, read))

    def weight_baselines(self) -> tuple[WeightBaseline, ...]:
        """The baselines that are computed from the experts' weights."""
        return tuple(baseline for baseline in self.baselines if isinstance(baseline, WeightBaseline))

    def check_controls(self, experts: Mapping[str, Expert], lora_rank: int | None) -> None:
        """Raises ValueError for a control of the polish without what it controls. `experts` by domain;
        `lora_rank` is the student's, None where it is trained in full."""
        if self.opd_more() is not None and self.polish is None:
            raise ValueError(
                "baselines: `opd_more` spends the rollouts of `polish` on more distillation, and there is no "
                "polish; declare one, or leave the baseline out"
            )
        if self.teacher_more() is None:
            return
        if self.polish is None:
            raise ValueError(
                "baselines: `teacher_more` trains the experts on as `polish` trains the student, and there "
                "is none; declare a `polish`, or leave the baseline out"
            )
        trained = {name: expert for name, expert in experts.items() if isinstance(expert, RLExpert)}
        if not trained:
            kinds = ", ".join(f"{name} {expert.kind}" for name, expert in experts.items())
            raise ValueError(
                f"baselines: `teacher_more` trains on experts of kind `rl`, and no domain has one ({kinds}); "
                "leave the baseline out"
            )
        # a control has the recipe of what it controls: the polish of an adapter trains an adapter on
        full = [name for name, expert in trained.items() if expert.lora_rank is None]
        if lora_rank is not None and full:
            raise ValueError(
                "baselines: `teacher_more` trains experts on as `polish` trains the student, which is an "
                f"adapter (training.lora_rank), and the expert of domain {full[0]!r} is a full model; give "
                f"domains.{full[0]}.expert a lora_rank, or leave the baseline out"
            )
