"""Experts that are built from a base of their own: what is refused, what is estimated, what is planned."""

from __future__ import annotations

import json
from typing import get_args

import pytest

from common.errors import ConfigError
from configs.blocks.experts import RLExpert
from configs.blocks.objective import Reference
from configs.load import load_config
from merging.checks.preflight import preflight
from merging.exopd.names import references
from merging.planning.plan import make_plan
from merging.reports.reporting import REFERENCES
from teachers.build import ExpertOrder
from teachers.registry.local import Registry
from tests.helpers.expert_orders import RECIPE, store_expert
from tests.helpers.messages import refuses, say_each
from tests.helpers.tiny_model import config_dict, write_config, write_model
from tests.helpers.tiny_model import parameters as parameters_of

SMALL, LARGE = parameters_of(99), parameters_of(99, 8)
"""Parameters of the test's student and of the base that is twice as wide."""


class Setting:
    """A config whose math expert is built from `./large`, and whose code expert is given."""

    def __init__(self, folder):
        self.folder, self.run_dir = folder, folder / "run"
        self.large = write_model(folder / "large", hidden=8)
        self.config = config_dict(folder)
        self.config["domains"]["math"]["expert"] = {**RECIPE, "base": "./large"}
        self.config |= {"baselines": [], "registry": "./home"}
        self.registry = Registry(folder / "home")

    def load(self, *overrides):
        return load_config(write_config(self.folder, self.config), overrides)

    def preflight(self, *overrides):
        return preflight(self.load(*overrides), self.run_dir)

    def problems(self, *overrides):
        with pytest.raises(ConfigError) as caught:
            self.preflight(*overrides)
        return caught.value.problems

    def plan(self, *overrides):
        return make_plan(self.load(*overrides), self.run_dir)

    def order(self) -> ExpertOrder:
        loaded = self.load()
        found = preflight(loaded, self.run_dir)
        return found.experts(found.with_folders(loaded.config))["math"].order()


@pytest.fixture
def setting(tmp_path):
    return Setting(tmp_path)


def test_the_base_is_found_from_the_configs_folder(setting):
    assert setting.load().config.domains["math"].expert.base == str(setting.large)
    assert setting.preflight().fingerprints["base of math"].parameters == LARGE
    assert setting.order().base == str(setting.large)


def test_the_base_is_the_reference_with_teacher_base_only(setting):
    setting.config["domains"]["code"]["expert"] = dict(RECIPE)
    student, large = str(setting.folder / "student"), str(setting.large)
    assert references(setting.load().config)[1] == {"reference": student}
    config = setting.load("objective.reference=teacher_base").config
    assert (config.reference_of("math"), config.reference_of("code")) == (large, student)


@pytest.mark.parametrize(
    "change, facts",
    [
        ({"extra_tokens": ("<x>",)}, ("tokenizer", "student's")),
        ({"eos": "<end>"}, ("EOS", "student's")),
        ({"template": "{{ messages }}"}, ("chat template", "student's")),
        ({"vocab_size": 120}, ("vocab_size 120", "config.json")),
        ({"context": 32}, ("context of 32 tokens",)),
    ],
)
def test_a_base_that_does_not_fit_is_refused_once(setting, change, facts):
    write_model(setting.large, hidden=8, **change)
    say_each(setting.problems(), (f"domains.math.expert.base ({setting.large})", *facts))


def test_a_base_that_is_not_there_is_refused(setting):
    problems = setting.problems("domains.math.expert.base=./none")
    say_each(problems, ("domains.math.expert.base", f"{setting.folder}/none", "no such model folder"))


def test_the_average_needs_bases_of_the_students_shape(setting):
    facts = (
        "baselines",
        "`average`",
        "shape",
        f"domains.math.expert.base ({setting.large})",
        "baselines: []",
    )
    say_each(setting.problems("baselines=[average]"), facts)
    write_model(setting.folder / "other", value=0.1)
    assert setting.preflight("baselines=[average]", "domains.math.expert.base=./other").student


def test_memory_and_disk_by_hand(setting):
    found = setting.preflight()
    merging = 20 * SMALL + 4 * (LARGE + SMALL + SMALL)  # the two teachers and the student as reference
    assert found.memory_bytes == 4 * 2**30 + max(merging, 20 * LARGE)
    assert found.disk_bytes == (24 + 4) * (SMALL + LARGE) + 2**28
    own = setting.preflight("objective.reference=teacher_base", "domains.code.expert.base=./student")
    assert own.memory_bytes == 4 * 2**30 + max(merging + 4 * LARGE, 20 * LARGE)
    write_model(setting.large, hidden=64)  # its own training is what needs most
    assert setting.preflight().memory_bytes == 4 * 2**30 + 20 * parameters_of(99, 64)


def test_the_plan_counts_every_model_at_its_size(setting):
    plan = setting.plan()
    assert plan.memory[-1].phases["experts"]["optimizer"] == 8 * LARGE
    assert plan.scorer_bytes == 4 * (LARGE + SMALL + SMALL)
    own = setting.plan("objective.reference=teacher_base", "domains.code.expert.base=./student")
    assert own.scorer_bytes == 4 * (LARGE + SMALL + LARGE + SMALL)


def test_times_are_those_of_the_same_base(setting):
    identity = setting.order().identity()
    curve = [{"step": step, "step_seconds": 8.0} for step in (1, 2)]
    store_expert(setting.registry, {**identity, "reward": "math"}, curve)
    stages = {stage.name: stage for stage in setting.plan().stages}
    assert stages["expert math"].seconds == 4 * 8.0  # four steps of as many rollouts
    assert stages["merge"].basis == "estimated"  # nothing of the student's size was measured


def test_a_run_folder_holds_its_bases(setting):
    from merging.state.run_folder import RunFolder

    loaded = setting.load()
    folder = RunFolder.open(setting.run_dir, loaded, preflight(loaded, setting.run_dir))
    assert folder.config.domains["math"].expert.base == str(setting.large)
    with refuses("another merge"):
        again = setting.load("domains.math.expert.base=./student")
        RunFolder.open(setting.run_dir, again, preflight(again, setting.run_dir))
    stored = (setting.run_dir / "config.resolved.yaml").read_text()
    assert json.dumps(str(setting.large))[1:-1] in stored


def test_every_kind_of_reference_has_its_words():
    union, _ = get_args(Reference)
    kinds = {get_args(kind.model_fields["kind"].annotation)[0] for kind in get_args(union)}
    assert REFERENCES.keys() == kinds
    assert RLExpert.model_fields["base"].default is None
