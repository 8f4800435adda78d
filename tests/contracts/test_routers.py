"""What every entry of routing.routers.route.ROUTERS must do."""

from __future__ import annotations

import importlib

import pytest

from configs.blocks.routing import (
    AgreementRouting,
    Fallback,
    LabelRouting,
    LearnedRouting,
    Rule,
    RulesRouting,
)
from routing.routers.route import ROUTERS, route
from routing.sources.collect import Prompt
from tests.helpers.messages import refuses

DOMAINS = ["math", "code"]
RULES = (Rule(domain="math", keywords=("sum",)), Rule(domain="code", regex="def|list"))
CONFIGS = {
    "label": LabelRouting(),
    "rules": RulesRouting(kind="rules", rules=RULES),
    "learned": LearnedRouting(kind="learned", threshold=0.6),
    "agreement": AgreementRouting(kind="agreement"),
}
"""A config for each kind of router."""

TEXTS = {"math": "the sum of {} and {}", "code": "a function for a list of {} and {}"}


def prompt(number: int, text: str, label: str | None) -> Prompt:
    return Prompt(f"id{number}", ({"role": "user", "content": text},), number, label, "f.jsonl", number + 1)


def prompts(labels: list[str | None], start: int = 0) -> list[Prompt]:
    return [
        prompt(start + i, TEXTS[label or "math"].format(start + i, 7 * i), label)
        if label in (None, *TEXTS)
        else prompt(start + i, "?", label)
        for i, label in enumerate(labels)
    ]


LABELLED = prompts(["math", "code"] * 12)
HOSTILE = ["", " \n", "\x00\ud83d\ude00", "sum " * 200_000, "\u0301" * 50, "$^(?(*", "SuM \u0130", "0"]


def test_every_router_has_a_config_here():
    assert CONFIGS.keys() == ROUTERS.keys()


@pytest.mark.parametrize("kind", ROUTERS)
class TestRouter:
    def test_target_exists(self, kind):
        module, _, name = ROUTERS[kind].partition(":")
        assert callable(getattr(importlib.import_module(module), name))

    def test_labels_decide_alone_where_every_prompt_has_one(self, kind):
        given = prompts(["math", "code", "math", "code", "code"])
        routed = route(given, CONFIGS[kind], DOMAINS)
        assert [item.prompt for item in routed.prompts] == given
        assert [item.domain for item in routed.prompts] == [p.label for p in given]
        assert all(item.reason for item in routed.prompts)
        assert not routed.dropped and not routed.undecided

    def test_is_deterministic(self, kind):
        given = [*LABELLED, *(prompts([None] * 5, start=50) if kind != "label" else [])]
        assert route(given, CONFIGS[kind], DOMAINS) == route(given, CONFIGS[kind], DOMAINS)

    def test_never_leaves_a_domain_without_prompts(self, kind):
        with refuses("no prompt", "domain"):
            route(prompts(["math", "math"]), CONFIGS[kind], DOMAINS)

    def test_refuses_a_label_that_is_no_domain_with_its_row(self, kind):
        with refuses("f.jsonl, row 2", "'physics'", "math, code"):
            route(prompts(["math", "physics", "code"]), CONFIGS[kind], DOMAINS)

    def test_every_prompt_ends_in_one_list_and_keeps_its_place(self, kind):
        hostile = [prompt(100 + i, text, None) for i, text in enumerate(HOSTILE)]
        given = [*LABELLED[:10], *hostile, *LABELLED[10:], *prompts([None, None], start=200)]
        if kind == "label":
            with refuses("row 101", "no label"):
                route(given, CONFIGS[kind], DOMAINS)
            return
        cfg = CONFIGS[kind]
        if kind != "agreement":
            cfg = cfg.model_copy(update={"otherwise": "drop"})
        routed = route(given, cfg, DOMAINS)
        ends = [item.prompt for item in routed.prompts] + [p for p, _ in routed.dropped] + routed.undecided
        assert sorted(p.id for p in ends) == sorted(p.id for p in given)
        place = {p.id: i for i, p in enumerate(given)}
        kept = [place[item.prompt.id] for item in routed.prompts]
        assert kept == sorted(kept)

    def test_a_domain_of_its_own_takes_labelled_prompts_only_from_its_source(self, kind):
        with refuses("label 'code'", "source"):
            own = Prompt("x", ({"role": "user", "content": "p"},), 1, "code", "f.jsonl", 1, owner="math")
            route([own, *LABELLED], CONFIGS[kind], DOMAINS)


@pytest.mark.parametrize("kind", ["rules", "learned"])
def test_what_it_is_not_sure_of_is_refused_dropped_or_given_to_one_domain(kind):
    odd = [prompt(300, "zzz qqq", None)]
    cfg = CONFIGS[kind].model_copy(update={"threshold": 0.999} if kind == "learned" else {})
    with refuses("f.jsonl, row 301", "1 of 1 prompts", "routing.otherwise"):
        route([*LABELLED, *odd], cfg, DOMAINS)
    dropped = route([*LABELLED, *odd], cfg.model_copy(update={"otherwise": "drop"}), DOMAINS)
    assert [p.id for p, _ in dropped.dropped] == ["id300"] and len(dropped.prompts) == len(LABELLED)
    for domain in DOMAINS:
        fallback = cfg.model_copy(update={"otherwise": Fallback(domain=domain)})
        last = route([*LABELLED, *odd], fallback, DOMAINS).prompts[-1]
        assert (last.domain, last.prompt.id) == (domain, "id300") and last.reason.startswith("fallback")
