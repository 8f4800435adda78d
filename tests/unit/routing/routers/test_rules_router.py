"""The router `rules`: the first rule decides, conditions join, examples are tested first."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from configs.blocks.routing import Rule, RuleExample, RulesRouting
from routing.routers.by_rules import matcher
from routing.routers.route import route
from routing.sources.collect import Prompt
from tests.helpers.messages import problems_of, say_each, says

DOMAINS = ["math", "code"]


def prompt(text: str, label: str | None = None) -> Prompt:
    return Prompt(text, ({"role": "user", "content": text},), None, label, "f.jsonl", 1)


def routing(*rules: Rule, **more) -> RulesRouting:
    return RulesRouting(kind="rules", rules=rules, **more)


@pytest.mark.parametrize(
    "condition, yes, no",
    [
        ({"regex": r"\bdef \w+"}, "write def f", "undefined f"),
        ({"keywords": ("sum", "how many")}, "How Many apples", "summit, how  many"),
        ({"keywords": ("C++",)}, "in C++ please", "C+ and xC++"),
        ({"min_chars": 5}, "12345", "1234"),
        ({"max_chars": 4}, "1234", "12345"),
        ({"keywords": ("sum",), "max_chars": 8}, "sum of 2", "sum of 22"),
        ({"keywords": ("sum",), "regex": "[0-9]"}, "sum 1", "sum"),
    ],
)
def test_a_rule_matches_where_all_of_its_conditions_hold(condition, yes, no):
    matches = matcher(Rule(domain="math", **condition))
    assert matches(yes) and not matches(no)


def test_the_first_rule_that_matches_decides_and_is_told():
    number, word = Rule(domain="math", regex="[0-9]"), Rule(domain="code", keywords=("list",))
    both = prompt("a list of 3")
    rest = [prompt("x", "math"), prompt("y", "code"), both]
    first = route(rest, routing(number, word), DOMAINS).prompts[-1]
    assert (first.domain, first.reason) == ("math", "rule 1: regex [0-9]")
    assert route(rest, routing(word, number), DOMAINS).prompts[-1].domain == "code"


def test_counts_by_rule_and_agreement_with_the_labels():
    rules = routing(
        Rule(domain="math", regex="[0-9]"), Rule(domain="code", keywords=("list",)), otherwise="drop"
    )
    given = [prompt("1", "math"), prompt("list", "math"), prompt("?", "code"), prompt("2"), prompt("3"),
             prompt("list a"), prompt("none")]  # fmt: skip
    found = route(given, rules, DOMAINS)
    assert [row["prompts"] for row in found.measured["matches"]] == [2, 1]
    assert (found.measured["unlabelled"], found.measured["unmatched"]) == (4, 1)
    tested = found.measured["tested"]
    assert (tested["n"], tested["right"]) == (3, 1)
    assert tested["interval"] == pytest.approx([0.0615, 0.7923], abs=1e-3)  # Wilson's, 1 of 3
    assert found.measured["confusion"] == {"math": {"math": 1, "code": 1}, "code": {"none": 1}}
    ((prompt_dropped, why),) = found.dropped
    assert prompt_dropped.id == "none"
    says(why, "no rule", "routing.rules")


def test_a_failing_example_is_refused_with_what_took_it():
    rules = (Rule(domain="math", regex="[0-9]"), Rule(domain="code", keywords=("list",)))
    examples = (
        RuleExample(text="7", domain="math"),
        RuleExample(text="list of 7", domain="code"),
        RuleExample(text="poem", domain="math"),
        RuleExample(text="a list", domain=None),
        RuleExample(text="poem", domain=None),
    )
    given = [prompt("x", "math"), prompt("y", "code")]
    say_each(
        problems_of(route, given, routing(*rules, examples=examples), DOMAINS),
        ("routing.examples.1", "'list of 7'", "'code'", "rule 1 (regex [0-9])", "'math'"),
        ("routing.examples.2", "'poem'", "'math'", "no rule"),
        ("routing.examples.3", "'a list'", "no rule", "rule 2 (keywords list)", "'code'"),
    )


@pytest.mark.parametrize(
    "rule, message",
    [
        ({}, "a rule needs a condition"),
        ({"regex": "("}, "regex '\\('"),
        ({"min_chars": 5, "max_chars": 4}, "min_chars 5 is above max_chars 4"),
        ({"keywords": ()}, "at least 1"),
        ({"keywords": ("",)}, "at least 1 character"),
    ],
)
def test_a_rule_that_says_nothing_sound_is_refused(rule, message):
    with pytest.raises(ValidationError, match=message):
        Rule(domain="math", **rule)
