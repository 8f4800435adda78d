"""What the polish did: its rollouts, its control, and what each stage of the training gained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class ControlUse:
    """A teacher that was trained on as the polish trained the student."""

    model: str
    steps: int
    rollouts: int


@dataclass(frozen=True)
class MoreUse:
    """The distilled student after more distillation, for as many rollouts as the polish took."""

    model: str
    steps: int
    rollouts: Mapping[str, int]
    """By domain: answers that were sampled and scored."""


@dataclass(frozen=True)
class PolishUse:
    """The polish of a run."""

    steps: int
    learning_rate: float
    rollouts: Mapping[str, int]
    """By domain: answers that were sampled and judged."""
    left_out: Sequence[str] = ()
    """Domains without a prompt that their reward can judge."""
    controls: Mapping[str, ControlUse] = field(default_factory=dict)
    """By domain; a domain that is absent has none."""
    is_controlled: bool = False
    """Whether the config asks for controls."""
    more: MoreUse | None = None
    """None where the config does not ask for it."""


def to_json(use: PolishUse | None) -> dict[str, Any] | None:
    """Plain values for `report.json`; None where the student was not polished."""
    return None if use is None else asdict(use)


def from_json(stored: Mapping[str, Any] | None) -> PolishUse | None:
    """What `to_json` gave."""
    if stored is None:
        return None
    controls = {domain: ControlUse(**control) for domain, control in stored["controls"].items()}
    more = stored.get("more")  # a report of an earlier version has none
    return PolishUse(**{**stored, "controls": controls, "more": more and MoreUse(**more)})


def told(use: PolishUse | None) -> list[str]:
    """The polish in sentences; none where there was none."""
    if use is None:
        return []
    found = [
        f"after its distillation the student was trained on by GRPO on the domains' rewards: {use.steps} "
        f"steps, learning rate {use.learning_rate:g}; rollouts: {_counts(use.rollouts)}"
    ]
    if use.left_out:
        found.append(
            f"the polish left out {', '.join(use.left_out)}: no prompt has an answer to be judged by"
        )
    return [*found, *_controls_told(use), _more_told(use)]


def _controls_told(use: PolishUse) -> list[str]:
    if not use.is_controlled:
        return [
            "no teacher was trained on as long (baseline `teacher_more`): where the student beats a teacher, "
            "the reinforcement learning of the polish alone may have done it"
        ]
    found = [
        f"{domain}: the teacher trained on as the student was is {control.model}: {control.steps} steps, "
        f"{control.rollouts:,} rollouts, the student's polish {use.rollouts[domain]:,}"
        for domain, control in use.controls.items()
    ]
    without = [domain for domain in use.rollouts if domain not in use.controls]
    if without:
        found.append(
            f"{', '.join(without)}: no such teacher, because the expert was given and not built "
            "here; where the student beats it, reinforcement learning alone may have done it"
        )
    return found


def _more_told(use: PolishUse) -> str:
    if use.more is None:
        return (
            "no student was distilled for as many rollouts more (baseline `opd_more`): what the polish "
            "gained, more distillation might have gained too"
        )
    more = use.more
    return (
        f"{more.model} is the distilled student after more distillation instead of the polish: {more.steps} "
        f"steps, rollouts: {_counts(more.rollouts)}; {sum(more.rollouts.values()):,} in all, the polish "
        f"{sum(use.rollouts.values()):,}"
    )


def _counts(rollouts: Mapping[str, int]) -> str:
    return ", ".join(f"{domain} {count:,}" for domain, count in rollouts.items())
