"""Rules: the first that matches decides."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from common.errors import ConfigError
from configs.blocks.routing import Rule, RulesRouting
from routing.sources.collect import Prompt

if TYPE_CHECKING:
    from routing.routers.decisions import Decisions, RoutedPrompt

Matches = Callable[[str], bool]


def decide(
    unlabelled: Sequence[Prompt],
    labelled: Sequence[RoutedPrompt],
    cfg: RulesRouting,
    domains: Sequence[str],
) -> Decisions:
    """The domain of the first rule that matches what the user says; raises ConfigError."""
    from routing.routers.decisions import Decision, Decisions

    rules = [matcher(rule) for rule in cfg.rules]
    check_examples(cfg, rules)
    found = [first_match(rules, prompt.text) for prompt in unlabelled]
    own = [first_match(rules, item.prompt.text) for item in labelled]
    each = [
        Decision(None, "no rule of routing.rules matches")
        if place is None
        else Decision(cfg.rules[place].domain, f"rule {place + 1}: {told(cfg.rules[place])}")
        for place in found
    ]
    return Decisions(each, _measured(cfg, found, own, labelled))


def matcher(rule: Rule) -> Matches:
    """Whether all of a rule's conditions hold for a text."""
    tests: list[Matches] = []
    if rule.regex is not None:
        pattern = re.compile(rule.regex)
        tests.append(lambda text: pattern.search(text) is not None)
    if rule.keywords is not None:
        words = "|".join(re.escape(word) for word in rule.keywords)
        # \b would fail beside a sign, as in `C++`
        whole = re.compile(rf"(?<!\w)(?:{words})(?!\w)", re.IGNORECASE)
        tests.append(lambda text: whole.search(text) is not None)
    shortest, longest = rule.min_chars, rule.max_chars
    if shortest is not None:
        tests.append(lambda text: len(text) >= shortest)
    if longest is not None:
        tests.append(lambda text: len(text) <= longest)
    return lambda text: all(test(text) for test in tests)


def first_match(rules: Sequence[Matches], text: str) -> int | None:
    """Place of the first rule that matches, from 0; None where none does."""
    return next((place for place, matches in enumerate(rules) if matches(text)), None)


def check_examples(cfg: RulesRouting, rules: Sequence[Matches]) -> None:
    """Raises ConfigError, one message an example that does not go where it must."""
    problems = []
    for number, example in enumerate(cfg.examples):
        place = first_match(rules, example.text)
        domain = None if place is None else cfg.rules[place].domain
        if domain != example.domain:
            took = "no rule matches it" if place is None else f"rule {place + 1} ({told(cfg.rules[place])}) "
            took += "" if place is None else f"takes it to {domain!r}"
            wanted = "no rule may match it" if example.domain is None else f"it must go to {example.domain!r}"
            problems.append(f"routing.examples.{number}: {example.text!r:.80}: {wanted}, and {took}")
    if problems:
        raise ConfigError(*problems)


def told(rule: Rule) -> str:
    """A rule's conditions, in words."""
    found = rule.model_dump(exclude={"domain"}, exclude_none=True)
    return ", ".join(f"{key} {', '.join(v) if isinstance(v, tuple) else v}" for key, v in found.items())


def _measured(
    cfg: RulesRouting,
    found: Sequence[int | None],
    own: Sequence[int | None],
    labelled: Sequence[RoutedPrompt],
) -> dict:
    """How often each rule decided, and what the rules say of the prompts whose label is known."""
    from routing.routers.measures import confusion, share_right

    guesses = [None if place is None else cfg.rules[place].domain for place in own]
    truths = [item.domain for item in labelled]
    return {
        "kind": "rules",
        "unlabelled": len(found),
        "matches": [
            {"rule": f"{told(rule)} -> {rule.domain}", "prompts": Counter(found)[place]}
            for place, rule in enumerate(cfg.rules)
        ],
        "unmatched": Counter(found)[None],
        "against": "the labels of the labelled prompts, on which the router does not decide",
        "tested": share_right(truths, guesses) if truths else None,
        "confusion": confusion(truths, guesses) if truths else None,
    }
