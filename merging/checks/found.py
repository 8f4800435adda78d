"""What the checks found: the record that every check reads and adds to, and that a run starts from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import wraps
from pathlib import Path
from typing import Any

from configs.prompt_mode import PromptMode
from configs.schema import MergeConfig
from merging.exopd.names import REFERENCE, START, measures_start
from merging.expert_kinds.kind import ExpertKind, base_key
from merging.expert_kinds.kinds import experts_of
from merging.planning.held import Held
from merging.state.served import served_notes
from routing import kept
from routing.gap import GapBudget
from routing.judged import left_out, polish_counts
from routing.kept import BenchmarkProblem
from routing.prompt_state import PromptState
from routing.routers.wording import told
from routing.validation import Asked
from teachers.models.fingerprint import ModelFingerprint
from teachers.registry.local import ExpertRecord
from teachers.served.examine import ServedFacts


@dataclass(frozen=True, kw_only=True)
class Preflight(PromptState):
    """The prompts, and what else the checks found. If no check refused, a run can start from it."""

    config: MergeConfig
    """As declared; experts that it names by their id in the registry are given as what they are."""
    run_dir: Path
    is_elsewhere: bool = False
    """Whether this is only about what a run would do, on a machine that may lack its devices."""
    problems: tuple[str, ...] = ()
    """What was refused so far."""
    records: Mapping[str, ExpertRecord] = field(default_factory=dict)
    """By domain, the records of experts that the config names by their id in the registry."""
    fingerprints: Mapping[str, ModelFingerprint] = field(default_factory=dict)
    """Of `student`, of each domain whose expert is the user's own model or adapter, of the bases of experts
    (`base of <domain>`), of a reference of its own (`reference`), and of a model that the student starts from
    (`merging.exopd.names.START`)."""
    served: Mapping[str, ServedFacts] = field(default_factory=dict)
    """What the servers said of the models that they hold, by domain or `reference`."""
    asked: tuple[BenchmarkProblem, ...] = ()
    """The problems of the benchmarks."""
    memory_bytes: int | None = None
    """Estimated peak of main memory on this machine; None where the work is on GPUs."""
    device_memory: tuple[Held, ...] = ()
    """What merge and experts hold on a GPU, by part; empty on a CPU."""
    main_memory: Held | None = None
    """Main memory by part, of the command's node where the work is on GPUs."""
    disk_bytes: int = 0
    """Estimated need of disk space."""
    validation: Asked = field(default_factory=Asked)
    """What validations while training ask; nothing without `training.validate_every`."""
    reward_notes: tuple[str, ...] = ()
    """What rewards take for right that is no answer, where it is too seldom to refuse them."""

    def refusing(self, *problems: str, **found: Any) -> Preflight:
        """The same with these problems added, and with what was found all the same."""
        return replace(self, problems=(*self.problems, *problems), **found)

    @property
    def student(self) -> Path:
        """The student's folder."""
        return Path(self.fingerprints["student"].path)

    @property
    def overlap_action(self) -> str:
        """`overlap.action`."""
        return self.config.overlap.action

    @property
    def unanswered(self) -> dict[str, int]:
        """By domain, prompts whose expert cannot be built on them for want of an answer."""
        if self.config.routing.decides_late:
            return {}  # it is built on none without a label, answer or not
        built = [expert for expert in self.experts(self.config).values() if expert.is_built]
        unread = {e.domain: sum(not e.reads(item) for item in e.prompts) for e in built}
        return {domain: count for domain, count in unread.items() if count}

    @property
    def notes(self) -> list[str]:
        """What the user should know although nothing is refused."""
        notes = kept.notes(self.dropped, self.overlaps, self.conflicts, self.overlap_action)
        foreign = [
            f"domains.{domain}.expert: {record.id} was {record.kind} for domain {record.domain!r}"
            for domain, record in self.records.items()
            if record.domain != domain
        ]
        foreign += list(self._other_modes())
        notes = [*notes, *self.reward_notes, *self.validation.notes, *self.router_notes(), *foreign]
        notes += kept.gap_note(self.config)
        if self.config.polish is not None and not self.undecided:
            notes += left_out(self.config, self.routed)
        return [*notes, *served_notes(self.config), *self.start_notes()]

    def _other_modes(self) -> Iterator[str]:
        """Which experts of the registry were built in another mode than their domain is asked in."""
        modes = self.config.prompt_modes()
        for domain, record in self.records.items():
            if "chat_template_arguments" not in record.identity:  # it was imported: nobody knows
                continue
            built = PromptMode(
                record.identity["chat_template_arguments"], record.identity.get("system_prompt")
            )
            if built.key() != modes[domain].key():
                said = [mode.told() or "no mode of its own" for mode in (built, modes[domain])]
                yield (
                    f"domains.{domain}.expert: {record.id} was trained with {said[0]}, and is asked with "
                    f"{said[1]}"
                )

    def start_notes(self) -> list[str]:
        """Which domains the guard on the training's start does not cover, because it starts elsewhere."""
        config = self.config
        if config.training.start.kind == "student":
            return []
        apart = [name for name in config.domains if not config.starts_from(config.reference_of(name))]
        left = [name for name in apart if not measures_start(config, name)]
        return [
            f"objective.largest_start_difference is not checked for {', '.join(left)}: training starts at "
            f"another model than the reference (training.start: {config.training.start.kind}), and only "
            "scorer.kind: shared, with a reference that it holds, can measure how far they are apart"
        ] * bool(left)

    def router_notes(self) -> list[str]:
        """What the user should know of the router."""
        unread = [
            f"{count} prompts that the router gave to {domain} have no answer; its expert is built without"
            for domain, count in self.unanswered.items()
        ]
        open_ones = f"{len(self.undecided)} prompts get their domain once the experts are there (agreement)"
        return [*(told(self.router) if self.router else []), *unread, *[open_ones] * bool(self.undecided)]

    def experts(self, config: MergeConfig) -> dict[str, ExpertKind]:
        """The expert of every domain of the config, which is one that `resolved` gave."""
        return experts_of(config, self.routed, self.records)

    def resolved(self, config: MergeConfig) -> MergeConfig:
        """The config with experts of the registry given as what they are."""
        return config.with_experts({name: domain.expert for name, domain in self.config.domains.items()})

    def with_folders(self, config: MergeConfig) -> MergeConfig:
        """The config with every model given by its folder, as trainer and evaluation need it."""
        config, models = self.resolved(config), self.fingerprints
        experts = {}
        for name, domain in config.domains.items():
            keys = {"path": name, "base": base_key(name)}
            paths = {part: models[key].path for part, key in keys.items() if key in models}
            experts[name] = domain.expert.model_copy(update=paths)
        objective = config.objective
        if REFERENCE in models:
            reference = objective.reference.model_copy(update={"path": models[REFERENCE].path})
            objective = objective.model_copy(update={"reference": reference})
        training = config.training
        if START in models:
            start = training.start.model_copy(update={"path": models[START].path})
            training = training.model_copy(update={"start": start})
        whole = {"student": str(self.student), "objective": objective, "training": training}
        return config.model_copy(update=whole).with_experts(experts)


Check = Callable[[Preflight], Preflight | None]
"""Raises ConfigError to refuse; a check that found something all the same returns `found.refusing(...)`. Else
it returns what is known now, or None if it adds nothing."""


def needs_student(check: Check) -> Check:
    """The check, skipped if the student could not be read, which `models` has refused already."""

    @wraps(check)
    def where_it_is_there(found: Preflight) -> Preflight | None:
        return check(found) if "student" in found.fingerprints else found

    return where_it_is_there


def summary(config: MergeConfig, found: Preflight) -> dict[str, Any]:
    """Counts and shares of a run's prompts, by domain; plain values. Where shares are decided while the
    student trains, rows and shares are those of trainings without validations."""
    mixed, said, budget = kept.mix_of(config, found.routed), overlap_record(found), GapBudget.of(config)
    return {
        "prompts": found.counts(),
        "rows": mixed.counts(config.training.steps, config.training.prompts_per_step),
        "shares": {domain: float(share) for domain, share in mixed.shares.items()},
        **({"share_range": [float(budget.least), float(budget.most)]} if budget else {}),
        "dropped": kept.by_reason(found.dropped),
        "conflicts": found.conflicts,
        **({"polish": polish_counts(config, found.routed)} if config.polish else {}),
        "notes": [note for note in found.notes if note not in said["overlap_notes"]],
        **said,
    }


def overlap_record(found: Preflight) -> dict[str, Any]:
    """The part of `summary` that depends on the benchmarks, which a finished run may change."""
    return {
        "overlaps": kept.by_benchmark(found.overlaps),
        "overlap_notes": kept.overlap_notes(found.overlaps, found.overlap_action),
    }
