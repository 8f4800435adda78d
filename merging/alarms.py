"""Alarms on a training's answers: what raises one, and what is remembered of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

from configs.guards import Alarms

FILE = "alarms.jsonl"


@dataclass(frozen=True)
class Alarm:
    """One domain's answers have changed in a way that is rarely meant."""

    domain: str
    kind: str
    """`length`, `finish rate` or `end token`."""
    step: int
    text: str
    one_from: int | None = None
    """Step from which lambda is 1 for the domain because of it; None where it was not backed off."""

    @property
    def sentence(self) -> str:
        """What happened and what was done."""
        done = "" if self.one_from is None else f"; lambda of {self.domain} is 1 from step {self.one_from}"
        return f"step {self.step}: {self.text}{done}"


def raised(lines: Sequence[Mapping[str, float]], settings: Alarms, domain: str) -> list[Alarm]:
    """The alarms of one domain after these steps (`merging.metrics.step_metrics`, in order)."""
    window = settings.window
    if len(lines) < window:
        return []
    last = lines[-window:]
    texts = {"end token": _end_token(last, settings, domain)}
    if len(lines) >= 2 * window:
        texts["length"] = _length(lines[:window], last, settings, domain)
        texts["finish rate"] = _finish_rate(lines[:window], last, settings, domain)
    step = int(lines[-1]["step"])
    return [Alarm(domain, kind, step, text) for kind, text in texts.items() if text is not None]


def _length(first, last, settings: Alarms, domain: str) -> str | None:
    before, now = (_mean(lines, domain, "length") for lines in (first, last))
    if before is None or now is None or max(now / before, before / now) < settings.length_factor:
        return None
    return f"answers of {domain} have {now:.1f} tokens, {before:.1f} at first"


def _finish_rate(first, last, settings: Alarms, domain: str) -> str | None:
    before, now = (_mean(lines, domain, "finish_rate") for lines in (first, last))
    if before is None or now is None or before - now < settings.finish_rate_drop:
        return None
    return f"{now:.0%} of the answers of {domain} end by themselves, {before:.0%} at first"


def _end_token(last, settings: Alarms, domain: str) -> str | None:
    logp = _mean(last, domain, "teacher_end_logp")
    if logp is None or logp >= settings.end_log_probability:
        return None
    return (
        f"where the student ends its answers of {domain}, the teacher's log-probability of the end token is "
        f"{logp:.1f}: it ends its own otherwise"
    )


class AlarmLog:
    """The alarms of one training, over all its attempts, in `<folder>/alarms.jsonl`."""

    def __init__(self, folder: Path):
        self.path = folder / FILE
        self.alarms = read_alarms(folder)

    def new(self, alarms: Iterable[Alarm]) -> list[Alarm]:
        """Those of a kind that the domain has not raised before."""
        known = {(alarm.domain, alarm.kind) for alarm in self.alarms}
        return [alarm for alarm in alarms if (alarm.domain, alarm.kind) not in known]

    def add(self, alarm: Alarm, one_from: int | None = None) -> Alarm:
        """Keeps the alarm, and from which step lambda is 1 because of it."""
        kept = replace(alarm, one_from=one_from)
        self.alarms.append(kept)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(kept)) + "\n")
        return kept

    def one_from(self, domain: str) -> int | None:
        """Step from which this domain's lambda is 1, None where it was never backed off."""
        steps = [a.one_from for a in self.alarms if a.domain == domain and a.one_from is not None]
        return min(steps, default=None)


def read_alarms(folder: Path) -> list[Alarm]:
    """What an `AlarmLog` has kept in this folder."""
    path = folder / FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [Alarm(**json.loads(line)) for line in lines]


def _mean(lines: Sequence[Mapping[str, float]], domain: str, name: str) -> float | None:
    """Mean over the steps that have the metric, None where none has."""
    key = f"teacher/{domain}/{name}"
    values = [line[key] for line in lines if key in line]
    return fmean(values) if values else None
