"""Everything the comparison of two runs shows, as frozen records, made from their stored answers.

Accuracies are in [0, 1], differences in [-1, 1] and always the first run minus the second. A benchmark is
compared only if both runs asked the same problems; what is not compared is listed with its reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from configs.prompt_mode import PromptMode

if TYPE_CHECKING:
    from eval.records import Mode, Sample
    from eval.report.data import Outcome
    from eval.report.sections.trained_lambda import Trained

MODES: tuple[Mode, ...] = ("sampled", "greedy")
STUDENT = "student"


@dataclass(frozen=True)
class BenchmarkRecord:
    """One benchmark of a run."""

    domain: str
    digest: str | None = None
    """Of its problems, reference answers and grader settings; None where the report does not tell."""
    grading: str | None = None
    """Key of all that its verdicts depend on, the grader's code included; None where it is not stored."""


@dataclass(frozen=True)
class RunRecord:
    """What a finished run left behind."""

    label: str
    """Its name beside the other run."""
    path: str
    created: str
    """Date and time of its report."""
    config: Mapping[str, Any]
    """The validated config with its defaults."""
    max_tokens: int
    """Answer length limit of the evaluation."""
    reward_scales: Mapping[str, float]
    """Lambda of each domain as declared, or as a probe chose it."""
    trained_lambda: Trained
    """The same as trained; empty where the run's report does not tell."""
    roles: Mapping[str, str]
    """Role of each model by name."""
    benchmarks: Mapping[str, BenchmarkRecord]
    """By name."""
    samples: Mapping[tuple[str, str], Sequence[Sample]]
    """Judged answers by (model, benchmark), all modes together."""
    wall_seconds: Mapping[str, float]
    peak_memory_bytes: int | None
    provenance: Mapping[str, str]

    def problems(self, benchmark: str) -> dict[str, Any]:
        """The prompts of a benchmark's problems by id, without the system message of its domain."""
        has_system = self.mode(self.benchmarks[benchmark].domain).has_system
        return {
            sample.problem_id: sample.prompt[1:] if has_system else sample.prompt
            for (_, name), samples in self.samples.items()
            if name == benchmark
            for sample in samples
        }

    def mode(self, domain: str) -> PromptMode:
        """How prompts of this domain are asked; plain for a domain that the config lacks."""
        own = self.config.get("domains", {}).get(domain) or {}
        arguments = {**self.config["chat_template"], **own.get("chat_template", {})}
        return PromptMode(arguments, own.get("system_prompt"))


@dataclass(frozen=True)
class ModelComparison:
    """One model of the first run minus the model of that name in the second, paired by problem."""

    model: str
    role: str
    benchmark: str
    domain: str
    mode: Mode
    first: float | None
    """Accuracy in the first run; None where no answer could be judged."""
    second: float | None
    difference: float
    lo: float
    hi: float
    """95% interval of the difference."""
    n: int
    """Problems with judged answers of both."""
    p_value: float
    unscored: int
    """Answers left out because one of a pair could not be judged."""
    same_answers: bool
    """Whether both runs hold the very same answers and verdicts."""
    verdict: Outcome = "not measured"
    """By the corrected p-value and the first run's margin; "not measured" before `build`."""
    p_adjusted: float = 1.0
    """`p_value` corrected for all comparisons but those of the same answers (Holm)."""


@dataclass(frozen=True)
class NotCompared:
    """A benchmark or model that is left out, and why."""

    what: str
    reason: str


@dataclass(frozen=True)
class Setting:
    """A value that differs; a run that lacks the key has no entry in `values`."""

    key: str
    values: Mapping[Literal["first", "second"], Any]


@dataclass(frozen=True)
class Compared:
    """The whole comparison."""

    first: RunRecord
    second: RunRecord
    created: str
    rows: tuple[ModelComparison, ...]
    """The student's first."""
    not_compared: tuple[NotCompared, ...]
    caveats: tuple[str, ...]
    """Settings of the evaluation that differ and may move the differences."""
    margin: float
    """Difference that does not matter, in [0, 1]: the first run's."""
    config: tuple[Setting, ...]
    provenance: tuple[Setting, ...]


def build(first: RunRecord, second: RunRecord, created: str) -> Compared:
    """Compares every model on every benchmark that both runs have; the bootstrap's seed is the first's."""
    shared = list(dict.fromkeys([*first.benchmarks, *second.benchmarks]))
    reasons = {name: why_not(first, second, name) for name in shared}
    comparable = [name for name, reason in reasons.items() if reason is None]
    left_out = [NotCompared(name, reason) for name, reason in reasons.items() if reason is not None]
    margin = first.config["evaluation"]["margin"] / 100
    rows: list[ModelComparison] = []
    for model in sorted(first.roles, key=lambda name: name != STUDENT):
        if first.roles[model] != second.roles.get(model):
            continue
        for name in comparable:
            for mode in MODES:
                found = _row(first, second, model, name, mode)
                if isinstance(found, ModelComparison):
                    rows.append(found)
                elif found is not None:
                    left_out.append(found)
    return Compared(
        first=first,
        second=second,
        created=created,
        rows=tuple(_judged(rows, margin)),
        not_compared=(*left_out, *_models_alone(first, second)),
        caveats=tuple(_caveats(first, second, comparable)),
        config=tuple(settings_that_differ(first.config, second.config)),
        provenance=tuple(settings_that_differ(first.provenance, second.provenance)),
        margin=margin,
    )


def _judged(rows: Sequence[ModelComparison], margin: float) -> Iterator[ModelComparison]:
    """The comparisons with corrected p-values and verdicts; the same answers are no question."""
    from eval.statistics.intervals import holm
    from eval.statistics.questions import outcome

    adjusted = iter(holm([row.p_value for row in rows if not row.same_answers]))
    for row in rows:
        p_adjusted = 1.0 if row.same_answers else next(adjusted)
        verdict = outcome(row.difference, row.lo, row.hi, p_adjusted, margin)
        yield replace(row, p_adjusted=p_adjusted, verdict=verdict)


# --------------------------------------------------------------------------------- what is comparable


def why_not(first: RunRecord, second: RunRecord, benchmark: str) -> str | None:
    """Why a benchmark cannot be compared; None if both runs asked and judged the same problems.

    Ids and prompts of all problems must agree. Reference answers are in no prompt: where the grading keys
    differ, the digests of the benchmark's content must agree, as far as both are known.
    """
    for run, other in ((first, second), (second, first)):
        if benchmark not in run.benchmarks:
            return f"only {other.label} has it"
    ours, theirs = first.problems(benchmark), second.problems(benchmark)
    if ours.keys() != theirs.keys():
        same = sum(id in theirs and theirs[id] == prompt for id, prompt in ours.items())
        return (
            f"{len(ours)} problems in {first.label}, {len(theirs)} in {second.label}, "
            f"{same} with the same id and prompt"
        )
    changed = [id for id, prompt in ours.items() if prompt != theirs[id]]
    if changed:
        return f"{len(changed)} of {len(ours)} problems have another prompt, such as {changed[0]}"
    if _same_grading(first, second, benchmark):
        return None
    digests = [digest for run in (first, second) if (digest := run.benchmarks[benchmark].digest) is not None]
    if len(set(digests)) == 2:
        both = " and ".join(digests)
        return f"the same prompts with other reference answers or grader settings (digests {both})"
    return None


def _same_grading(first: RunRecord, second: RunRecord, benchmark: str) -> bool:
    keys = [run.benchmarks[benchmark].grading for run in (first, second)]
    return keys[0] is not None and keys[0] == keys[1]


def _models_alone(first: RunRecord, second: RunRecord) -> Iterator[NotCompared]:
    for run, other in ((first, second), (second, first)):
        for model, role in run.roles.items():
            if model not in other.roles:
                yield NotCompared(f"model {model}", f"only {run.label} has it")
            elif role != other.roles[model] and run is first:
                reason = f"{role} in {first.label}, {other.roles[model]} in {second.label}"
                yield NotCompared(f"model {model}", reason)


def _caveats(first: RunRecord, second: RunRecord, benchmarks: Sequence[str]) -> Iterator[str]:
    ours, theirs = first.config["evaluation"], second.config["evaluation"]
    names = (first.label, second.label)

    def both(a: Any, b: Any) -> str:
        return f"{a} in {names[0]}, {b} in {names[1]}"

    if ours["temperature"] != theirs["temperature"]:
        values = both(f"{ours['temperature']:g}", f"{theirs['temperature']:g}")
        yield f"Other temperature of the sampled answers: {values}"
    if first.max_tokens != second.max_tokens:
        yield f"Other limit of an answer's tokens: {both(first.max_tokens, second.max_tokens)}"
    if ours["samples_per_problem"] != theirs["samples_per_problem"]:
        values = both(ours["samples_per_problem"], theirs["samples_per_problem"])
        yield f"Other number of sampled answers to a problem: {values}"
    if ours["margin"] != theirs["margin"]:
        values = both(f"{ours['margin']:g}", f"{theirs['margin']:g}")
        yield f"Other margin of what counts as level, in points: {values}; here that of {names[0]}"
    for domain in dict.fromkeys(first.benchmarks[name].domain for name in benchmarks):
        modes = [run.mode(domain) for run in (first, second)]
        if modes[0].key() != modes[1].key():
            values = both(*(mode.told() or "as the chat template does by itself" for mode in modes))
            yield f"{domain} is asked in another mode, so the models read other text: {values}"
    for name in benchmarks:
        if not _same_grading(first, second, name):
            known = all(run.benchmarks[name].digest for run in (first, second))
            yield (
                f"{name}: the verdicts may come from another version of the grader"
                + ("" if known else " or from other reference answers")
                + " (the grading keys differ or are not stored)"
            )


# --------------------------------------------------------------------------------------- comparisons


def _row(
    first: RunRecord, second: RunRecord, model: str, benchmark: str, mode: Mode
) -> ModelComparison | NotCompared | None:
    """None where neither run has an answer."""
    from eval.statistics.compare import compare, summarise

    sides = [
        [s for s in run.samples.get((model, benchmark), ()) if s.mode == mode] for run in (first, second)
    ]
    if not any(sides):
        return None
    what = f"{model} on {benchmark}, {mode}"
    if not all(sides):
        return NotCompared(what, f"only {(first if sides[0] else second).label} has such answers")
    result = compare(*sides, seed=first.config["evaluation"]["seed"])
    if result.n == 0:
        return NotCompared(what, "no problem has judged answers in both runs")
    answers = [{(s.problem_id, s.index, s.completion, s.verdict) for s in side} for side in sides]
    return ModelComparison(
        model=model,
        role=first.roles[model],
        benchmark=benchmark,
        domain=first.benchmarks[benchmark].domain,
        mode=mode,
        first=summarise(sides[0]).accuracy,
        second=summarise(sides[1]).accuracy,
        difference=result.difference,
        lo=result.lo,
        hi=result.hi,
        n=result.n,
        p_value=result.p_value,
        unscored=result.unscored,
        same_answers=answers[0] == answers[1],
    )


# ------------------------------------------------------------------------------------------ settings

_ABSENT = object()


def settings_that_differ(first: Any, second: Any, key: str = "") -> Iterator[Setting]:
    """Values that differ, by dotted key as `--set` reads it; a list without mappings is one value.

    Where one side has nothing (no key, null, empty) and the other a mapping, the mapping's keys are given.
    """
    ours, theirs = _below(first), _below(second)
    if ours is None or theirs is None or not (ours or theirs):
        if first == second and type(first) is type(second):
            return
        sides: dict[Literal["first", "second"], Any] = {"first": first, "second": second}
        yield Setting(key, {side: value for side, value in sides.items() if value is not _ABSENT})
        return
    for name in dict.fromkeys([*ours, *theirs]):
        dotted = f"{key}.{name}" if key else str(name)
        yield from settings_that_differ(ours.get(name, _ABSENT), theirs.get(name, _ABSENT), dotted)


def _below(value: Any) -> dict[Any, Any] | None:
    """The entries of a mapping or of a list of mappings; None for a plain value."""
    if value is _ABSENT or value is None or value == [] or value == {}:
        return {}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, list) and all(isinstance(item, Mapping) for item in value):
        return dict(enumerate(value))
    return None
