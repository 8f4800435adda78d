"""Which training curves the report shows, from the metrics of every step by stage.

The trainer's metrics name a domain's teacher as `teacher/<domain>/<metric>`. Known metrics come first, in
the order of `MERGE_PANELS`, with their units; any other metric of a teacher gets a panel of its own.
Every metric is a mean, over tokens or rollouts, and is drawn as it is given.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

Curves = Mapping[str, Sequence[Mapping[str, float]]]

TEACHER_METRIC = re.compile(r"^teacher/(?P<domain>[^/]+)/(?P<metric>.+)$")
VALIDATION_METRIC = re.compile(r"^validation/(?P<domain>[^/]+)/(?P<decoding>greedy|sampled)$")
EXPERT_STAGE = re.compile(r"^expert .+$")


@dataclass(frozen=True)
class Series:
    """One curve; `values[i]` was measured at `steps[i]`. Steps without a finite value are left out."""

    label: str
    stage: str
    domain: str | None
    steps: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Panel:
    """Curves of one metric, drawn together."""

    key: str
    title: str
    unit: str
    series: tuple[Series, ...]
    main: bool = True
    """False for a metric that the report tucks away."""


EXPERT_PANELS: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "reward": ("Experts: reward", "mean reward", ("reward", "critic/score/mean", "critic/rewards/mean")),
    "length": ("Experts: response length", "tokens", ("response_length", "response_length/mean")),
    "entropy": ("Experts: entropy", "nats per token", ("entropy", "actor/entropy")),
}
"""Panel key -> title, unit, and the metric's names, of which the first present is shown."""

MERGE_PANELS: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "implicit_reward": (
        "Implicit reward T \N{MINUS SIGN} B",
        "nats per token",
        ("implicit_reward",),
    ),
    "student_minus_teacher": (
        "Student against teacher S \N{MINUS SIGN} T",
        "nats per token",
        ("student_minus_teacher",),
    ),
    "kl_to_optimum": ("Divergence KL(student, optimum)", "nats per token", ("kl_to_optimum",)),
    "length": (
        "Response length",
        "tokens",
        ("response_length", "length", "mean_tokens"),
    ),
    "finish_rate": ("Finish rate", "share of rollouts", ("finish_rate",)),
    "entropy": ("Entropy", "nats per token", ("entropy",)),
    "task_reward": ("Task reward of the rollouts", "mean reward", ("task_reward",)),
}
"""As `EXPERT_PANELS`, the names being those below `teacher/<domain>/`."""

VALIDATION_PANELS: Mapping[str, str] = {
    "greedy": "Validation accuracy while training, greedy",
    "sampled": "Validation accuracy while training, T = 1",
}
"""Decoding -> title."""

WHOLE_BATCH: Mapping[str, tuple[str, ...]] = {
    "length": ("length", "response_length/mean"),
    "finish_rate": ("finish_rate",),
    "entropy": ("entropy", "actor/entropy"),
    "task_reward": ("task_reward", "critic/score/mean"),
}
"""Metrics over all domains, ours or verl's, shown where a stage has no metric by domain."""


def panels(curves: Curves) -> list[Panel]:
    """Every panel that has at least one curve, the experts' first."""
    experts = {stage: rows for stage, rows in curves.items() if EXPERT_STAGE.match(stage)}
    merges = {stage: rows for stage, rows in curves.items() if stage not in experts}
    found = [
        Panel(f"expert-{key}", title, unit, tuple(_expert_series(experts, names)))
        for key, (title, unit, names) in EXPERT_PANELS.items()
    ]
    found += [
        Panel(f"merge-{key}", title, unit, tuple(_merge_series(merges, key, names)))
        for key, (title, unit, names) in MERGE_PANELS.items()
    ]
    known = {name for _, _, names in MERGE_PANELS.values() for name in names}
    found += [
        Panel(f"merge-validation-{key}", title, "accuracy", tuple(_validation_series(merges, key)))
        for key, title in VALIDATION_PANELS.items()
    ]
    found += [
        Panel(f"merge-{metric}", _title(metric), "", tuple(_merge_series(merges, metric, (metric,))), False)
        for metric in _other_metrics(merges, known)
    ]
    return [panel for panel in found if panel.series]


def _expert_series(stages: Curves, names: Sequence[str]) -> Iterator[Series]:
    for stage, rows in stages.items():
        domain = stage.removeprefix("expert ")
        for name in [name for name in names if _has(rows, name)][:1]:
            yield _series(rows, name, domain, stage, domain)


def _merge_series(stages: Curves, key: str, names: Sequence[str]) -> Iterator[Series]:
    for stage, rows in stages.items():
        suffix = "" if stage == "merge" else f", {stage.removeprefix('baseline ')}"
        by_domain = [
            (domain, f"teacher/{domain}/{metric}")
            for domain in _domains(rows)
            for metric in [m for m in names if _has(rows, f"teacher/{domain}/{m}")][:1]
        ]
        whole = [(None, name) for name in WHOLE_BATCH.get(key, ()) if _has(rows, name)][:1]
        for domain, name in by_domain or whole:
            series = _series(rows, name, (domain or "all") + suffix, stage, domain)
            if key != "implicit_reward" or not is_unscored_reference(series):
                yield series


def _validation_series(stages: Curves, decoding: str) -> Iterator[Series]:
    """One curve for each domain; the number of prompts is in its label."""
    for stage, rows in stages.items():
        suffix = "" if stage == "merge" else f", {stage.removeprefix('baseline ')}"
        matches = (VALIDATION_METRIC.match(key) for row in rows for key in row)
        for domain in dict.fromkeys(m["domain"] for m in matches if m and m["decoding"] == decoding):
            name = f"validation/{domain}/{decoding}"
            if _has(rows, name):
                prompts = next(row[f"{name}/n"] for row in rows if name in row)
                yield _series(rows, name, f"{domain}, n = {prompts:g} prompts{suffix}", stage, domain)


def is_unscored_reference(series: Series) -> bool:
    """Whether T - B is 0 throughout: at reward scale 1 only T is read and B repeats it, at 0 only B."""
    return not any(series.values)


def _domains(rows: Sequence[Mapping[str, float]]) -> list[str]:
    matches = (TEACHER_METRIC.match(key) for row in rows for key in row)
    return list(dict.fromkeys(match["domain"] for match in matches if match))


def _other_metrics(stages: Curves, known: set[str]) -> list[str]:
    matches = (TEACHER_METRIC.match(key) for rows in stages.values() for row in rows for key in row)
    return sorted({match["metric"] for match in matches if match} - known)


def _has(rows: Sequence[Mapping[str, float]], name: str) -> bool:
    return any(_finite(row.get(name)) for row in rows)


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _series(
    rows: Sequence[Mapping[str, float]], name: str, label: str, stage: str, domain: str | None
) -> Series:
    """The curve of metric `name`; a row without a step of its own counts from 1."""
    found = [(row.get("step", i), row[name]) for i, row in enumerate(rows, 1) if _finite(row.get(name))]
    steps, values = zip(*found, strict=True)
    return Series(label, stage, domain, steps, values)


def _title(metric: str) -> str:
    words = re.sub(r"[_/]+", " ", metric).strip()
    return words[:1].upper() + words[1:]
