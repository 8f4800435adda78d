"""Mixing by the distance to the optimum: what is refused, in one message with place and valid values."""

from __future__ import annotations

import pytest
import yaml

from configs.load import load_config
from tests.helpers.messages import problems_of, say_each

PROMPTS = {"kind": "file", "path": "math.jsonl"}
EVERY = "training.validate_every=2"


@pytest.fixture
def load(tmp_path):
    """Loads a config of two domains, of which those that are named have validation prompts."""

    def load(*overrides: str, mixing: object = "gap", validated=("math", "code")):
        domain = {"expert": {"kind": "model", "path": "expert"}, "prompts": PROMPTS, "reward": "exact"}
        domains = {
            name: domain | ({"validation": PROMPTS} if name in validated else {}) for name in ("math", "code")
        }
        config = {"name": "demo", "student": "base", "domains": domains, "mixing": mixing}
        file = tmp_path / "config.yaml"
        file.write_text(yaml.safe_dump(config, sort_keys=False))
        return load_config(file, overrides).config

    return load


def test_a_name_alone_has_the_defaults(load):
    mixing = load(EVERY).mixing
    assert (mixing.kind, mixing.floor, mixing.optimum, mixing.order.kind) == ("gap", 0.25, {}, "shuffled")
    block = {"kind": "gap", "floor": 1, "optimum": {"math": 0.7, "code": 1}, "order": "shuffled"}
    assert load(EVERY, mixing=block).mixing.optimum == {"math": 0.7, "code": 1.0}


def test_without_validations_there_is_nothing_to_plan_by(load):
    say_each(problems_of(load), ("mixing: gap", "training.validate_every", "another mixing"))


def test_every_domain_needs_validation_prompts(load):
    problems = problems_of(load, EVERY, validated=("math",))
    say_each(problems, ("mixing: gap", "'code'", "domains.code.validation", "another mixing"))


@pytest.mark.parametrize(
    ("block", "told"),
    [
        ({"floor": 0}, ("mixing", "floor", "above 0")),
        ({"floor": 1.1}, ("mixing", "floor", "at most 1")),
        ({"optimum": {"math": 0}}, ("mixing", "optimum.math", "above 0")),
        ({"optimum": {"math": 1.5}}, ("mixing", "optimum.math", "at most 1")),
        ({"optimum": {"chat": 0.5}}, ("mixing.optimum", "'chat'", "math, code")),
        ({"order": "curriculum"}, ("mixing", "order", "sorts", "decided while", "shuffled")),
        ({"every": 2}, ("mixing", "every")),
    ],
)
def test_values_that_cannot_hold_are_refused(load, block, told):
    say_each(problems_of(load, EVERY, mixing={"kind": "gap", **block}), told)
