"""Options of validations while training: what is refused, in one message with place and valid values."""

from __future__ import annotations

import pytest
import yaml

from configs.load import load_config
from tests.helpers.messages import problems_of, say_each

PROMPTS = {"kind": "file", "path": "math.jsonl"}


@pytest.fixture
def load(tmp_path):
    """Loads a config whose only domain has validation prompts, unless it is told otherwise."""

    def load(*overrides: str, validation: dict | None = PROMPTS):
        domain = {"expert": {"kind": "model", "path": "expert"}, "prompts": PROMPTS, "reward": "exact"}
        if validation is not None:
            domain["validation"] = validation
        config = {"name": "demo", "student": "base", "domains": {"math": domain}, "training": {"steps": 8}}
        file = tmp_path / "config.yaml"
        file.write_text(yaml.safe_dump(config))
        return load_config(file, overrides).config

    return load


def test_by_default_nothing_is_validated(load):
    training = load().training
    assert training.validate_every is None and training.keep == "last" and not training.chooses_by_validation
    on = load("training.validate_every=8", "training.keep=best", "training.patience=3").training
    assert on.chooses_by_validation and on.patience == 3


@pytest.mark.parametrize("option", ["keep=best", "patience=2", "validation_samples=2", "validation_limit=10"])
def test_an_option_of_validations_without_one_is_refused(load, option):
    name = option.split("=")[0]
    say_each(
        problems_of(load, f"training.{option}"), (f"training.{name}", "training.validate_every", "1 to 8")
    )


def test_what_is_no_validation_is_refused(load):
    say_each(
        problems_of(load, "training.validate_every=9"),
        ("training.validate_every", "9", "training.steps = 8", "valid: 1 to 8"),
    )
    say_each(
        problems_of(load, "training.validate_every=2", validation=None),
        ("training.validate_every", "domains.<name>.validation"),
    )
    say_each(
        problems_of(load, "training.validate_every=2", "hardware.checkpoints=weights"),
        ("training.validate_every", "hardware.checkpoints: weights", "valid", "full"),
    )


@pytest.mark.parametrize(
    "option", ["validate_every=0", "validation_samples=0", "validation_limit=0", "patience=0", "keep=first"]
)
def test_values_out_of_range_are_refused(load, option):
    problems = problems_of(load, "training.validate_every=2", f"training.{option}")
    say_each(problems, (f"training.{option.split('=')[0]}",))
