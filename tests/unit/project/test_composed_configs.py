"""What verl is told for three sizes is in the golden files, and every deviation from a recipe has a reason.

`python -m tests.helpers.composed_configs --update` writes the files anew.
"""

from __future__ import annotations

import pytest
import yaml

from tests.helpers import composed_configs as composed
from trainer.settings.defaults import PPO
from trainer.settings.known import known

UPDATE = "python -m tests.helpers.composed_configs --update writes it anew"
RECIPES = composed.recipes()


@pytest.mark.parametrize("name", composed.CONFIGS)
def test_what_verl_is_told_is_what_was_agreed(name):
    kept = yaml.safe_load(composed.golden_file(name).read_text(encoding="utf-8"))
    assert composed.changes(name) == kept, UPDATE
    assert composed.golden_file(name).read_text(encoding="utf-8") == composed.golden_text(name), UPDATE


def test_the_page_is_what_is_composed():
    assert composed.PAGE.read_text(encoding="utf-8") == composed.page(), UPDATE


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_deviation_from_a_recipe_has_a_reason(recipe):
    found = composed.deviations(recipe)
    assert [key for key in found if composed.reason(recipe, key) is None] == []


@pytest.mark.parametrize("recipe", RECIPES)
def test_no_reason_is_left_over(recipe):
    assert composed.reasons().get(recipe, {}).keys() <= composed.deviations(recipe).keys()


def test_no_common_reason_is_left_over():
    used = {key for recipe in RECIPES for key in composed.deviations(recipe)}
    assert composed.reasons()["everywhere"].keys() <= used
    assert composed.reasons().keys() <= {"everywhere", *RECIPES}


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_recipes_keys_are_verls(recipe):
    declared = RECIPES[recipe]
    # keys below these are those of a chat template
    keys = [key for key in declared["settings"] if not key.startswith("data.apply_chat_template_kwargs.")]
    assert [key for key in keys if known(PPO, key) is None] == []
    assert [key for key in declared.get("own_keys", {}) if known(PPO, key) is not None] == []
    assert declared["compared_with"] in composed.CONFIGS


def test_a_difference_is_seen(monkeypatch):
    changed = {**RECIPES["qwen3_4b_grpo"]["settings"], "actor_rollout_ref.rollout.enforce_eager": True}
    monkeypatch.setitem(RECIPES["qwen3_4b_grpo"], "settings", changed)
    assert composed.deviations("qwen3_4b_grpo")["actor_rollout_ref.rollout.enforce_eager"] == (True, False)
    assert composed.reason("qwen3_4b_grpo", "actor_rollout_ref.rollout.enforce_eager") is None
