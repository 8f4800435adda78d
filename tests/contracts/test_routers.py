"""What every entry of routing.routers.ROUTERS must do."""

from __future__ import annotations

import importlib

import pytest

from configs import schema
from configs.load import ConfigError
from routing.routers import ROUTERS, route
from routing.sources import Prompt

DOMAINS = ["math", "code"]
CONFIGS = {"label": schema.LabelRouting()}
"""A config for each kind of router."""


def prompts(labels: list[str | None]) -> list[Prompt]:
    return [
        Prompt(f"id{i}", ({"role": "user", "content": f"p{i}"},), i, label, "f.jsonl", i + 1)
        for i, label in enumerate(labels)
    ]


def test_every_router_has_a_config_here():
    assert CONFIGS.keys() == ROUTERS.keys()


@pytest.mark.parametrize("kind", ROUTERS)
class TestRouter:
    def test_target_exists(self, kind):
        module, _, name = ROUTERS[kind].partition(":")
        assert callable(getattr(importlib.import_module(module), name))

    def test_is_total_and_keeps_the_order(self, kind):
        given = prompts(["math", "code", "math", "code", "code"])
        routed = route(given, CONFIGS[kind], DOMAINS)
        assert [item.prompt for item in routed] == given
        assert all(item.domain in DOMAINS and item.reason for item in routed)

    def test_is_deterministic(self, kind):
        given = prompts(["math", "code"] * 5)
        assert route(given, CONFIGS[kind], DOMAINS) == route(given, CONFIGS[kind], DOMAINS)

    def test_never_leaves_a_domain_without_prompts(self, kind):
        with pytest.raises(ConfigError, match="no prompt is routed to domain"):
            route(prompts(["math", "math"]), CONFIGS[kind], DOMAINS)

    def test_refuses_what_it_cannot_route_with_its_row(self, kind):
        with pytest.raises(ConfigError, match=r"f\.jsonl, row 2: .*valid labels: math, code"):
            route(prompts(["math", "physics", "code"]), CONFIGS[kind], DOMAINS)
