"""A config's baselines, by what a run does with them."""

from __future__ import annotations

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
