"""Which of the prompts that were read are trained on, and what became of the others."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from configs.baselines import GrpoBaseline
from configs.load import ConfigError
from configs.schema import MergeConfig
from routing.mix import Mix, mix
from routing.overlap import Overlap, check
from routing.routers import UNROUTED, RoutedPrompt
from routing.sources import Duplicate, Prompt

if TYPE_CHECKING:
    from merging.preflight import Preflight

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


Kept = tuple[list[RoutedPrompt], list[Dropped]]


def duplicates(repeated: Iterable[Duplicate], routed: Sequence[RoutedPrompt]) -> list[Dropped]:
    """The duplicates as dropped prompts, each in the domain of the row that is kept."""
    domain_of = {item.prompt.id: item.domain for item in routed}
    return [
        Dropped(
            item.prompt,
            domain_of.get(item.kept.id, UNROUTED),
            "duplicate",
            f"repeats {item.kept.where}" + ("" if item.same_answer else ", which has another answer"),
        )
        for item in repeated
    ]


def unrouted(left_out: Iterable[tuple[Prompt, str]]) -> list[Dropped]:
    """What the router left out, as dropped prompts."""
    return [Dropped(prompt, UNROUTED, "router", reason) for prompt, reason in left_out]


def without_labelled_twins(routed: Sequence[RoutedPrompt]) -> Kept:
    """The prompts without those that a router gave a domain, or will, although the same messages stand there
    with a label already: they would be the domain's rows twice, or contradict the label."""
    first = {_messages_key(item): item for item in routed if item.prompt.has_label}
    kept, dropped = [], []
    for item in routed:
        twin = None if item.prompt.has_label else first.get(_messages_key(item))
        if twin is None:
            kept.append(item)
        else:
            detail = f"repeats {twin.prompt.where}, which has a label"
            dropped.append(Dropped(item.prompt, twin.domain, "duplicate", detail))
    return kept, dropped


def without_conflicts(routed: Sequence[RoutedPrompt], action: str) -> tuple[Kept, dict[str, int]]:
    """The prompts without those that stand in several domains, as `conflicts` says; and how many of each
    domain do.

    The same messages in two domains would be scored by two teachers. Raises ConfigError with both rows.
    """
    first: dict[tuple, RoutedPrompt] = {}
    conflicting: dict[tuple, RoutedPrompt] = {}
    for item in routed:
        key = _messages_key(item)
        if first.setdefault(key, item).domain != item.domain:
            conflicting.setdefault(key, item)
    if conflicting and action == "refuse":
        key, item = next(iter(conflicting.items()))
        raise ConfigError(
            f"{item.prompt.where}: domain {item.domain!r} has the same prompt as {first[key].prompt.where}, "
            f"which belongs to domain {first[key].domain!r}, so two teachers would score it "
            f"({len(conflicting)} such prompts); correct the labels, or set conflicts: drop, or keep"
        )
    counts = dict(Counter(item.domain for item in routed if _messages_key(item) in conflicting))
    if action == "keep":
        return (list(routed), []), counts
    kept, dropped = [], []
    for item in routed:
        key = _messages_key(item)
        if key not in conflicting:
            kept.append(item)
            continue
        other = first[key] if item.domain != first[key].domain else conflicting[key]
        detail = f"the same prompt in domain {other.domain}: {other.prompt.where}"
        dropped.append(Dropped(item.prompt, item.domain, "conflict", detail))
    return (kept, dropped), counts


def _messages_key(item: RoutedPrompt) -> tuple[tuple[str, str], ...]:
    return tuple((message["role"], message["content"]) for message in item.prompt.messages)


def find_repeats(
    routed: Sequence[RoutedPrompt],
    problems: Sequence[BenchmarkProblem],
    ngram: int,
    endings: Collection[str] = (),
) -> list[Repeat]:
    """Every prompt that repeats a problem, once each; `endings` are instructions after either's text."""
    domain_of = {id(item.prompt): item.domain for item in routed}
    texts = [problem.text for problem in problems]
    found = check([item.prompt for item in routed], texts, ngram, endings)
    return [Repeat(domain_of[id(item.prompt)], problems[item.problem], item) for item in found]


def without_repeats(routed: Sequence[RoutedPrompt], repeats: Sequence[Repeat], action: str) -> Kept:
    """The prompts without those that repeat a problem, where `overlap.action` says so; raises ConfigError."""
    if action == "warn" or not repeats:
        return list(routed), []
    if action == "refuse":
        raise ConfigError(
            *(
                f"{sentence}; overlap.action: refuse (`drop` leaves them out, `warn` trains on them)"
                for sentence in repeat_sentences(repeats)
            )
        )
    found = {id(item.overlap.prompt): item for item in repeats}
    kept = [item for item in routed if id(item.prompt) not in found]
    dropped = [
        Dropped(
            item.overlap.prompt,
            item.domain,
            "overlap",
            f"{item.overlap.kind}: problem {item.problem.id} of benchmark {item.problem.benchmark}",
        )
        for item in repeats
    ]
    return kept, dropped


def not_among(repeats: Iterable[Repeat], dropped: Iterable[Dropped]) -> list[Repeat]:
    """Those whose prompt was not dropped for another reason."""
    gone = {id(item.prompt) for item in dropped}
    return [item for item in repeats if id(item.overlap.prompt) not in gone]


def with_domains(repeats: Iterable[Repeat], routed: Iterable[RoutedPrompt]) -> list[Repeat]:
    """The same with the domains that their prompts have now; a prompt that is not routed keeps its own."""
    domain_of = {id(item.prompt): item.domain for item in routed}
    return [replace(item, domain=domain_of.get(id(item.overlap.prompt), item.domain)) for item in repeats]


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


def without_long(
    routed: Sequence[RoutedPrompt], student: Path, config: MergeConfig
) -> tuple[Kept, dict[str, int]]:
    """The prompts within the length limit, and the tokens of each domain's longest.

    Raises ConfigError, one message a domain, where `training.too_long` is `refuse`.
    """
    from merging.lengths import longest_prompts, prompts_above

    limit, template = config.training.max_prompt_tokens, config.chat_template
    longest = longest_prompts(routed, student, template)
    over = {domain: found for domain, found in longest.items() if found[0] > limit}
    if over and config.training.too_long == "refuse":
        raise ConfigError(
            *(
                f"{item.prompt.where}: the prompt has {tokens} tokens with the chat template (the longest of "
                f"domain {domain!r}), above training.max_prompt_tokens = {limit}; training.too_long: drop "
                "leaves such prompts out"
                for domain, (tokens, item) in over.items()
            )
        )
    dropped = []
    if over:
        for tokens, item in prompts_above(routed, student, template, limit):
            detail = f"{tokens} tokens with the chat template, above training.max_prompt_tokens = {limit}"
            dropped.append(Dropped(item.prompt, item.domain, "too long", detail))
        gone = {id(item.prompt) for item in dropped}
        routed = [item for item in routed if id(item.prompt) not in gone]
        longest = longest_prompts(routed, student, template)
    return (list(routed), dropped), {domain: tokens for domain, (tokens, _) in longest.items()}


def mix_of(config: MergeConfig, routed: Sequence[RoutedPrompt]) -> Mix:
    """The merge's mix."""
    return mix(routed, config.mixing, config.training.seed)


def check_mix(config: MergeConfig, routed: Sequence[RoutedPrompt], dropped: Sequence[Dropped]) -> None:
    """Raises ConfigError for a domain without prompts, or without a row in the training."""
    left = {item.domain for item in routed}
    for domain in config.domains:
        if domain not in left:
            reasons = Counter(item.reason for item in dropped if item.domain == domain)
            raise ConfigError(f"domain {domain!r}: no prompt is left; dropped: {_text(reasons)}")
    mixed, steps = mix_of(config, routed), config.training.steps
    sizes = {"training.prompts_per_step": config.training.prompts_per_step}
    for baseline in config.trained_baselines():
        if isinstance(baseline, GrpoBaseline):
            sizes["prompts of a step of baseline `grpo`"] = config.grpo_prompts_per_step(baseline)
    for what, size in sizes.items():
        for domain, rows in mixed.counts(steps, size).items():
            if not rows:
                raise ConfigError(
                    f"mixing: domain {domain!r} would have none of the {steps * size} rows of the training "
                    f"(a share of {float(mixed.shares[domain]):.2%}; {steps} steps, {what} = {size}); "
                    "give it a larger share, or train on more rows"
                )


def mix_text(mixed: Mix, config: MergeConfig, domain: str) -> str:
    """A domain's part of the training, in words."""
    rows = mixed.counts(config.training.steps, config.training.prompts_per_step)[domain]
    used = sum(item.domain == domain for item in mixed.prompts)
    passes = f"{rows / used:.1f} passes"
    return f"{used} used, {float(mixed.shares[domain]):.1%} of every step, {rows} rows ({passes})"


def summary(config: MergeConfig, found: Preflight) -> dict[str, Any]:
    """Counts and shares of a run's prompts, by domain; plain values."""
    mixed, said = mix_of(config, found.routed), overlap_record(found)
    return {
        "prompts": found.counts(),
        "rows": mixed.counts(config.training.steps, config.training.prompts_per_step),
        "shares": {domain: float(share) for domain, share in mixed.shares.items()},
        "dropped": by_reason(found.dropped),
        "conflicts": found.conflicts,
        "notes": [note for note in found.notes if note not in said["overlap_notes"]],
        **said,
    }


def overlap_record(found: Preflight) -> dict[str, Any]:
    """The part of `summary` that depends on the benchmarks, which a finished run may change."""
    return {
        "overlaps": by_benchmark(found.overlaps),
        "overlap_notes": overlap_notes(found.overlaps, found.overlap_action),
    }


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


def json_lines(records: Iterable[Mapping[str, Any]]) -> str:
    """One record a line."""
    import json

    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
