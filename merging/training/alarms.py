"""Alarms on a training's answers: what raises one, and what is remembered of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

from common.files import json_lines, write_text
from common.reading import read_json_lines
from configs.blocks.objective import Alarms
from configs.schema import MergeConfig
from merging.exopd.lambda_schedule import LambdaSchedule

FILE = "alarms.jsonl"


@dataclass(frozen=True)
class Alarm:
    """One domain's answers have changed in a way that is rarely meant."""

    domain: str
    kind: str
    """`length`, `finish rate`, `end token`, `reference` or `entropy`."""
    step: int
    text: str
    one_from: int | None = None
    """Step from which lambda is 1 for the domain because of it; None where it was not backed off."""

    @property
    def sentence(self) -> str:
        """What happened and what was done."""
        done = "" if self.one_from is None else f"; lambda of {self.domain} is 1 from step {self.one_from}"
        return f"step {self.step}: {self.text}{done}"


Lines = Sequence[Mapping[str, float]]
"""Metrics of some steps, in order."""


def raised(lines: Lines, settings: Alarms, domain: str) -> list[Alarm]:
    """The alarms of one domain after these steps (`merging.training.metrics.step_metrics`, in order)."""
    window = settings.window
    if len(lines) < window:
        return []
    last = lines[-window:]
    texts = {
        "end token": _end_token(last, settings, domain),
        "reference": _reference(lines, last, settings, domain),
    }
    if len(lines) >= 2 * window:
        texts["length"] = _length(lines[:window], last, settings, domain)
        texts["finish rate"] = _finish_rate(lines[:window], last, settings, domain)
        texts["entropy"] = _entropy(lines[:window], last, settings, domain)
    step = int(lines[-1]["step"])
    return [Alarm(domain, kind, step, text) for kind, text in texts.items() if text is not None]


def _length(first: Lines, last: Lines, settings: Alarms, domain: str) -> str | None:
    before, now = (_mean(lines, domain, "length") for lines in (first, last))
    if before is None or now is None or _factor(before, now) < settings.length_factor:
        return None
    return f"answers of {domain} have {now:.1f} tokens, {before:.1f} at first"


def _entropy(first: Lines, last: Lines, settings: Alarms, domain: str) -> str | None:
    before, now = (_mean(lines, domain, "entropy") for lines in (first, last))
    if before is None or now is None or _factor(before, now) < settings.entropy_factor:
        return None
    return f"the student's entropy on {domain} is {now:.3g} nats a token, {before:.3g} at first"


def _factor(before: float, now: float) -> float:
    """How much larger the larger is; both are at least 0, and two zeros are equal."""
    low, high = sorted((before, now))
    if low > 0:
        return high / low
    return math.inf if high > 0 else 1.0


def _reference(lines: Lines, last: Lines, settings: Alarms, domain: str) -> str | None:
    """Measured from the first step: a reference of another kind is far away from the beginning."""
    name = "reference_kl"
    before = next((line[key] for line in lines if (key := f"teacher/{domain}/{name}") in line), None)
    now = _mean(last, domain, name)
    if before is None or now is None or now - before <= settings.reference_kl:
        return None
    return (
        f"the student is {now:.3g} nats a token from the reference of {domain}, {before:.3g} at first "
        f"(objective.alarms.reference_kl = {settings.reference_kl:g})"
    )


def _finish_rate(first: Lines, last: Lines, settings: Alarms, domain: str) -> str | None:
    before, now = (_mean(lines, domain, "finish_rate") for lines in (first, last))
    if before is None or now is None or before - now < settings.finish_rate_drop:
        return None
    return f"{now:.0%} of the answers of {domain} end by themselves, {before:.0%} at first"


def _end_token(last: Lines, settings: Alarms, domain: str) -> str | None:
    logp = _mean(last, domain, "teacher_end_logp")
    if logp is None or logp >= settings.end_log_probability:
        return None
    return (
        f"where the student ends its answers of {domain}, the teacher's log-probability of the end token is "
        f"{logp:.1f}: it ends its own otherwise"
    )


class AlarmLog:
    """The alarms of one training, over all its attempts, in `<folder>/alarms.jsonl`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.alarms = read_alarms(folder)

    def new(self, alarms: Iterable[Alarm], window: int = 1) -> list[Alarm]:
        """Those of a kind that the domain has not raised before, and those that a back-off has not ended.

        The latter once all steps of the window were at lambda 1, and then once in a window.
        """
        return [found for alarm in alarms if (found := self._new(alarm, window)) is not None]

    def _new(self, alarm: Alarm, window: int) -> Alarm | None:
        before = [a.step for a in self.alarms if (a.domain, a.kind) == (alarm.domain, alarm.kind)]
        if not before:
            return alarm
        one_from = backed_off(self.alarms).get(alarm.domain)
        if one_from is None or alarm.step < one_from + window - 1 or alarm.step < max(before) + window:
            return None
        return replace(alarm, text=f"{alarm.text}, although its lambda is 1 since step {one_from}")

    def add(self, alarm: Alarm, one_from: int | None = None) -> Alarm:
        """Keeps the alarm, and from which step lambda is 1 because of it."""
        kept = replace(alarm, one_from=one_from)
        self.alarms.append(kept)
        write_text(self.path, json_lines(map(asdict, self.alarms)))
        return kept


def backed_off(alarms: Iterable[Alarm]) -> dict[str, int]:
    """By domain that an alarm has backed off: the step from which its lambda is 1."""
    found: dict[str, int] = {}
    for alarm in alarms:
        if alarm.one_from is not None:
            found[alarm.domain] = min(alarm.one_from, found.get(alarm.domain, alarm.one_from))
    return found


def read_alarms(folder: Path) -> list[Alarm]:
    """What an `AlarmLog` has kept in this folder."""
    return read_json_lines(folder / FILE, Alarm, "alarms, one a line")


def schedule_of(config: MergeConfig, work: Path, override: float | None = None) -> LambdaSchedule:
    """Lambda of a training that works in this folder, as the alarms of its earlier attempts have left it."""
    return LambdaSchedule.of(config, override, backed_off(read_alarms(work)))


def _mean(lines: Lines, domain: str, name: str) -> float | None:
    """Mean over the steps that have the metric, None where none has."""
    key = f"teacher/{domain}/{name}"
    values = [line[key] for line in lines if key in line]
    return fmean(values) if values else None
