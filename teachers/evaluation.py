"""An expert beside its base on its domain's benchmarks, as the record keeps it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eval.statistics.compare import compare, summarise

if TYPE_CHECKING:
    from configs.schema import MergeConfig
    from eval.records import Sample

Scores = dict[str, dict[str, Any]]
"""By benchmark, `<name>@greedy` for greedy answers."""

MODES = {"sampled": "", "greedy": "@greedy"}


def scores(expert: Mapping[str, Sequence[Sample]], base: Mapping[str, Sequence[Sample]], seed: int) -> Scores:
    """Accuracy of the expert, and of its base beside it, from their judged answers by benchmark.

    Accuracies are in [0, 1] and None where no answer could be judged; `n` counts problems with a judged
    answer; `difference` is the expert's minus the base's, paired by problem, with its 95% interval.
    """
    found = {}
    for benchmark, answers in expert.items():
        for mode, added in MODES.items():
            ours = [sample for sample in answers if sample.mode == mode]
            theirs = [sample for sample in base[benchmark] if sample.mode == mode]
            if ours:
                found[benchmark + added] = (
                    _score(ours) | {"base": _score(theirs)} | _paired(ours, theirs, seed)
                )
    return found


def _score(samples: Sequence[Sample]) -> dict[str, Any]:
    score = summarise(samples)
    judged = {sample.problem_id for sample in samples if sample.verdict != "unscored"}
    interval = None if score.accuracy is None else [score.lo, score.hi]
    return {
        "accuracy": score.accuracy, "n": len(judged), "answers": score.n, "interval": interval,
        "unscored": score.unscored,
    }  # fmt: skip


def _paired(ours: Sequence[Sample], theirs: Sequence[Sample], seed: int) -> dict[str, Any]:
    result = compare(ours, theirs, seed)
    measured = result.n > 0
    return {
        "difference": result.difference if measured else None,
        "difference_interval": [result.lo, result.hi] if measured else None,
    }


def settings(config: MergeConfig, domain: str) -> dict[str, Any]:
    """What the scores on a domain's benchmarks depend on besides model and benchmark."""
    own, mode = config.evaluation, config.prompt_modes()[domain]
    return {
        "samples_per_problem": own.samples_per_problem,
        "temperature": own.temperature,
        "seed": own.seed,
        "max_response_tokens": config.evaluation_tokens(),
        "chat_template": dict(mode.chat_template),
        **({"system_prompt": mode.system_prompt} if mode.has_system else {}),
    }


def without_base(found: Scores) -> Scores:
    """The expert's own scores alone."""
    own = ("accuracy", "n", "answers", "interval", "unscored")
    return {name: {key: score[key] for key in own} for name, score in found.items()}


def unmeasured(found: Scores) -> list[str]:
    """Benchmarks of which no answer of the expert or of its base could be judged."""
    return [name for name, score in found.items() if score["difference"] is None]


def worse(found: Scores) -> list[str]:
    """In words: where the expert is below its base, with an interval that excludes 0."""
    return [
        f"{name}: {score['accuracy']:.1%} against its base's {score['base']['accuracy']:.1%} "
        f"({_points(score['difference'])}, 95% interval {_points(score['difference_interval'][0])} to "
        f"{_points(score['difference_interval'][1])}, n = {score['n']})"
        for name, score in found.items()
        if score["difference_interval"] is not None and score["difference_interval"][1] < 0
    ]


def sentence(name: str, score: Mapping[str, Any]) -> str:
    """One benchmark in words."""
    unscored = f", {score['unscored']} answers unscored" if score["unscored"] else ""
    if score["accuracy"] is None:
        return f"{name}: not measured{unscored}"
    lo, hi = score["interval"]
    return f"{name}: {score['accuracy']:.1%} (95% interval {lo:.1%} to {hi:.1%}, n = {score['n']}{unscored})"


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f} points"
