"""Which of the prompts that were read are trained on, and what became of the others."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from common.errors import ConfigError
from common.words import counted
from configs.blocks.mixing import SHUFFLED
from configs.schema import MergeConfig
from routing.gap import GapBudget
from routing.mix import Mix, mix
from routing.overlap import Overlap
from routing.routers.decisions import RoutedPrompt
from routing.sources.collect import Prompt
from routing.trained_rows import check_written

Reason = Literal["router", "duplicate", "conflict", "overlap", "too long"]


@dataclass(frozen=True)
class Dropped:
    """A prompt that was read and is not trained on."""

    prompt: Prompt
    domain: str
    reason: Reason
    detail: str

    def to_json(self) -> dict[str, Any]:
        """A line of `prompts/dropped.jsonl`."""
        place = {"source": self.prompt.source, "row": self.prompt.row, "id": self.prompt.id}
        return {"reason": self.reason, "domain": self.domain, **place, "detail": self.detail}


@dataclass(frozen=True)
class BenchmarkProblem:
    """A problem that the trained models will be asked."""

    benchmark: str
    id: str
    text: str


@dataclass(frozen=True)
class Repeat:
    """A training prompt that repeats a benchmark's problem."""

    domain: str
    problem: BenchmarkProblem
    overlap: Overlap

    def to_json(self, dropped: bool) -> dict[str, Any]:
        """A line of `prompts/overlaps.jsonl`."""
        prompt = self.overlap.prompt
        return {
            "id": prompt.id,
            "source": prompt.source,
            "row": prompt.row,
            "domain": self.domain,
            "benchmark": self.problem.benchmark,
            "problem": self.problem.id,
            "kind": self.overlap.kind,
            "shared": self.overlap.shared,
            "dropped": dropped,
        }


def repeat_sentences(repeats: Sequence[Repeat]) -> list[str]:
    """One sentence a benchmark, with the first prompt of each and the counts by domain."""
    groups: dict[str, list[Repeat]] = defaultdict(list)
    for item in repeats:
        groups[item.problem.benchmark].append(item)
    sentences = []
    for benchmark, items in groups.items():
        domains = _text(Counter(item.domain for item in items))
        first = items[0]
        sentences.append(
            f"{len(items)} training prompts repeat problems of benchmark {benchmark} (first: "
            f"{first.overlap.prompt.where}, {first.overlap.kind}, problem {first.problem.id}; by domain: "
            f"{domains})"
        )
    return sentences


def mix_of(config: MergeConfig, routed: Sequence[RoutedPrompt]) -> Mix:
    """The merge's mix."""
    return mix(routed, config.mixing, config.training.seed)


def scheduled(
    config: MergeConfig, routed: Sequence[RoutedPrompt], prompts_per_step: int
) -> list[RoutedPrompt]:
    """All rows of a training on all domains, in reading order.

    A domain's rows are the same for any `prompts_per_step`, as far as they go, and in the same order unless
    a curriculum sorts them.
    """
    mixed, steps = mix_of(config, routed), config.training.steps
    rows = mixed.rows(steps, prompts_per_step)
    check_written(Counter(row.domain for row in rows), mixed.counts(steps, prompts_per_step))
    return rows


def scheduled_with_more(
    config: MergeConfig, routed: Sequence[RoutedPrompt], steps: int, read: Mapping[str, int] | None = None
) -> tuple[list[RoutedPrompt], list[RoutedPrompt]]:
    """The merge's rows, and those of so many steps more that a longer merge would have read next.

    A curriculum has come to its end by then: both are as if shuffled, so that the first ones are the merge's
    in another order. `read` are the rows of each domain that the merge has read where its shares were planned
    while it trained: its file has equal shares then, and so have the rows behind them.
    """
    mixed = replace(mix_of(config, routed), order=SHUFFLED)
    own, size = config.training.steps, config.training.prompts_per_step
    if read is None:
        rows = mixed.rows(own + steps, size)
        return rows[: own * size], rows[own * size :]
    return mixed.rows(own, size), mixed.rows(steps, size, read)


def check_mix(config: MergeConfig, routed: Sequence[RoutedPrompt], dropped: Sequence[Dropped]) -> None:
    """Raises ConfigError for a domain without prompts, or without a row in the training."""
    left = {item.domain for item in routed}
    for domain in config.domains:
        if domain not in left:
            reasons = Counter(item.reason for item in dropped if item.domain == domain)
            raise ConfigError(f"domain {domain!r}: no prompt is left; dropped: {_text(reasons) or 'none'}")
    mixed, steps = mix_of(config, routed), config.training.steps
    if (budget := GapBudget.of(config)) is not None:
        _check_floor(budget)
    for what, size in config.step_sizes().items():
        for domain, rows in mixed.counts(steps, size).items():
            if not rows:
                raise ConfigError(
                    f"mixing: domain {domain!r} would have none of the {steps * size} rows of the training "
                    f"(a share of {float(mixed.shares[domain]):.2%}; {steps} steps, {what} = {size}); "
                    "give it a larger share, or train on more rows"
                )


def _check_floor(budget: GapBudget) -> None:
    rows = budget.steps * budget.size
    if budget.least * rows < 1:
        raise ConfigError(
            f"mixing.floor: a domain could have none of the {rows} rows of the training (a share of "
            f"{float(budget.least):.2%}: {float(budget.floor):g} of the equal share of {len(budget.domains)} "
            "domains); raise it, or train on more rows"
        )


def gap_note(config: MergeConfig) -> list[str]:
    """With `mixing: gap`: that shares are not known before the training, and what they may be."""
    if (budget := GapBudget.of(config)) is None:
        return []
    late = (
        f", each of which counts one step later with training.overlap: {config.training.overlap}; until the "
        "first one counts, shares are equal"
    )
    return [
        f"mixing: gap decides each domain's share of every step while the student trains, between "
        f"{span_text(budget)}, by validations every {counted(budget.every, 'step')}{late * budget.late}; "
        "trainings without validations have equal shares"
    ]


def span_text(budget: GapBudget) -> str:
    """Least and largest share of a domain, in words."""
    return f"{float(budget.least):.1%} and {float(budget.most):.1%}"


def mix_text(mixed: Mix, config: MergeConfig, domain: str) -> str:
    """A domain's part of the training, in words."""
    used = sum(item.domain == domain for item in mixed.prompts)
    if (budget := GapBudget.of(config)) is not None:
        return f"{used} used, between {span_text(budget)} of every step, decided while the student trains"
    rows = mixed.counts(config.training.steps, config.training.prompts_per_step)[domain]
    passes = f"{rows / used:.1f} passes"
    return f"{used} used, {float(mixed.shares[domain]):.1%} of every step, {rows} rows ({passes})"


def by_reason(dropped: Iterable[Dropped]) -> dict[str, dict[str, int]]:
    """Dropped prompts by reason and domain."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for item in dropped:
        counts[item.reason][item.domain] += 1
    return {reason: dict(found) for reason, found in counts.items()}


def by_benchmark(repeats: Iterable[Repeat]) -> dict[str, dict[str, int]]:
    """How many prompts of each domain repeat problems of each benchmark."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for item in repeats:
        counts[item.problem.benchmark][item.domain] += 1
    return {benchmark: dict(found) for benchmark, found in counts.items()}


def notes(
    dropped: Sequence[Dropped], repeats: Sequence[Repeat], conflicts: Mapping[str, int], overlap_action: str
) -> list[str]:
    """What the user should know of the prompts although nothing is refused.

    `conflicts` is what `without_conflicts` counted.
    """
    lines = []
    words = {
        "router": "prompts that the router did not decide on",
        "duplicate": "duplicate prompts",
        "conflict": "prompts of several domains",
        "too long": "prompts above the length limit",
    }
    for reason, counts in by_reason(dropped).items():
        if reason in words:
            lines.append(f"{sum(counts.values())} {words[reason]} dropped ({_text(counts)})")
    other = sum(item.reason == "duplicate" and "another answer" in item.detail for item in dropped)
    if other:
        lines.append(f"{other} of the duplicates have another answer than the row that is kept")
    if conflicts and not any(item.reason == "conflict" for item in dropped):
        lines.append(
            f"{sum(conflicts.values())} prompts ({_text(conflicts)}) stand in another domain too, and each "
            "domain's teacher scores its own"
        )
    return [*lines, *overlap_notes(repeats, overlap_action)]


def overlap_notes(repeats: Sequence[Repeat], action: str) -> list[str]:
    """One note a benchmark whose problems are repeated."""
    end = "they are dropped" if action == "drop" else "its scores may be inflated"
    return [f"{sentence}; {end}" for sentence in repeat_sentences(repeats)]


def _text(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
