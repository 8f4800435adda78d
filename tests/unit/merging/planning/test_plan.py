"""The plan: states of the stages, scorer passes, and times only where something was measured."""

from __future__ import annotations

from dataclasses import replace

import pytest

from configs.load import load_config
from merging.checks.preflight import preflight
from merging.planning.plan import make_plan
from teachers.registry.local import Registry
from tests.helpers.expert_orders import RECIPE, store_expert
from tests.helpers.tiny_model import config_dict, unmodelled, write_config
from tests.helpers.tiny_model import parameters as parameters_of


class Setting:
    """A config with one expert to be built (math) and one given (code), its registry and run folder."""

    def __init__(self, folder):
        self.folder, self.run_dir = folder, folder / "run"
        self.config = config_dict(folder)
        unmodelled(folder / "student")
        self.config["domains"]["math"]["expert"] = dict(RECIPE)
        self.config["training"] |= {"steps": 10, "prompts_per_step": 4, "samples_per_prompt": 2}
        self.config["registry"] = "./home"
        self.registry = Registry(folder / "home")

    def plan(self, *overrides):
        return make_plan(load_config(write_config(self.folder, self.config), overrides), self.run_dir)

    def stages(self, *overrides):
        return {stage.name: stage for stage in self.plan(*overrides).stages}

    def identity(self):
        loaded = load_config(write_config(self.folder, self.config))
        return preflight(loaded, self.run_dir).experts(loaded.config)["math"].order().identity()


@pytest.fixture
def setting(tmp_path):
    return Setting(tmp_path)


def checkpoint(folder, step):
    folder.mkdir(parents=True)
    (folder / "latest_checkpointed_iteration.txt").write_text(str(step))


def test_a_fresh_run(setting):
    stages = setting.stages("baselines=[opd, average]")
    assert {name: stage.state for name, stage in stages.items()} == {
        "expert math": "to do",
        "expert code": "given",
        "merge": "to do",
        "baseline opd": "to do",
        "baseline average": "to do",
        "evaluation": "to do",
        "report": "to do",
    }
    assert (stages["expert math"].steps, stages["expert math"].rollouts) == (4, 4 * 2 * 2)
    assert stages["expert math"].scorer_passes == 0
    assert (stages["merge"].steps, stages["merge"].rollouts) == (10, 10 * 4 * 2)
    assert (stages["baseline opd"].rollouts, stages["baseline opd"].scorer_passes) == (80, 80)
    trainings = [stages[name] for name in ("expert math", "merge", "baseline opd")]
    assert {(stage.seconds, stage.basis) for stage in trainings} == {
        (None, None)
    }  # neither known nor modelled
    assert all("mixture of experts is not modelled" in stage.source for stage in trainings)
    assert not setting.run_dir.exists() and not setting.registry.root.exists()


def test_the_plan_keeps_the_order_of_the_run(setting):
    names = [stage.name for stage in setting.plan("baselines=[opd]").stages]
    assert names == ["expert math", "expert code", "merge", "baseline opd", "evaluation", "report"]
    names = [stage.name for stage in setting.plan("baselines=[dare, opd, ties]").stages]
    assert names[2:6] == ["merge", "baseline opd", "baseline dare", "baseline ties"]


@pytest.mark.parametrize(
    "overrides, passes, total",
    [
        ([], {"math": 2, "code": 2}, 160),
        (["objective.reward_scale=1"], {"math": 1, "code": 1}, 80),
        (["domains.code.objective={reward_scale: 1}"], {"math": 2, "code": 1}, 120),
        (
            ["objective.reward_scale=1", "domains.code.objective={reward_scale: 0}"],
            {"math": 1, "code": 1},
            80,
        ),
    ],
)
def test_scorer_passes(setting, overrides, passes, total):
    plan = setting.plan(*overrides)
    assert plan.scorer_passes_per_rollout == passes
    assert next(stage for stage in plan.stages if stage.name == "merge").scorer_passes == total


def test_memory_by_hand(setting):
    parameters = parameters_of(99)
    plan = setting.plan()
    assert plan.scorer_bytes == parameters * 4 * 3  # float32: reference and two teachers
    (held,) = plan.memory
    one = parameters * 4
    assert held.phases["merge"] == {"weights": one, "gradients": one, "optimizer": 2 * one, "rollout": one,
                                    "scorer": 3 * one, "processes": 4 * 2**30}  # fmt: skip
    assert held.phases["experts"] == {
        part: size for part, size in held.phases["merge"].items() if part != "scorer"
    }
    assert held.phases["baselines of weights"]["models"] == (2 + 3) * one
    (two,) = setting.plan("hardware.gpus=2").memory
    assert two.phases["merge"]["optimizer"] == 2 * held.phases["merge"]["optimizer"]
    assert plan.disk == {"checkpoints": 24 * 2 * parameters, "models": 4 * 3 * parameters,
                         "samples and logs": 2**28}  # fmt: skip


def test_a_built_expert_is_found(setting):
    identity = setting.identity()
    store_expert(setting.registry, identity)
    stage = setting.stages()["expert math"]
    assert (stage.state, stage.steps, stage.rollouts) == ("found in the registry", 0, 0)
    assert setting.stages("domains.math.expert.seed=1")["expert math"].state == "to do"


def test_stopped_trainings_continue(setting):
    from teachers.registry.local import expert_id

    id = expert_id(setting.identity())
    checkpoint(setting.registry.root / "building" / id / "checkpoints", 3)
    checkpoint(setting.run_dir / "train" / "checkpoints", 6)
    checkpoint(setting.run_dir / "opd" / "checkpoints", 10)
    stages = setting.stages("baselines=[opd]")
    assert (stages["expert math"].state, stages["expert math"].rollouts) == ("continues at step 3", 1 * 2 * 2)
    merge = stages["merge"]
    assert (merge.state, merge.steps, merge.rollouts, merge.scorer_passes) == (
        "continues at step 6",
        4,
        32,
        64,
    )
    assert stages["baseline opd"].steps == 0


def test_finished_stages_are_done(setting):
    for path in ("student", "baselines/opd", "baselines/average"):
        (setting.run_dir / path).mkdir(parents=True)
    stages = setting.stages("baselines=[opd, average]")
    done = {name for name, stage in stages.items() if stage.state == "done"}
    assert done == {"merge", "baseline opd", "baseline average"}
    assert (stages["merge"].steps, stages["merge"].scorer_passes) == (0, 0)
    (setting.run_dir / "manifest.json").touch()
    stages = setting.stages()
    assert stages["evaluation"].state == stages["report"].state == "done"


def test_a_baseline_of_other_options_is_made_again(setting):
    block = "{kind: ties, density: 0.5, scale: 1.0}"
    folder = setting.run_dir / "baselines" / "ties"
    folder.mkdir(parents=True)
    (folder / "baseline.json").write_text('{"kind": "ties", "density": 0.5, "scale": 1.0}')
    assert setting.stages(f"baselines=[{block}]")["baseline ties"].state == "done"
    assert setting.stages("baselines=[ties]")["baseline ties"].state == "to do"


def test_grpo_has_the_merges_steps_and_rollouts_and_no_passes(setting):
    setting.config["training"]["samples_per_prompt"] = 4
    stages = setting.stages("baselines=[grpo, ties, opd]")
    assert list(stages)[2:6] == ["merge", "baseline grpo", "baseline opd", "baseline ties"]
    grpo, merge = stages["baseline grpo"], stages["merge"]
    assert (grpo.steps, grpo.rollouts) == (merge.steps, merge.rollouts) == (10, 10 * 4 * 4)
    assert (grpo.state, grpo.scorer_passes) == ("to do", 0)


def test_only_a_grpo_of_the_same_options_continues_or_is_done(setting):
    def grpo(size):
        stage = setting.stages(f"baselines=[{{kind: grpo, samples_per_prompt: {size}}}]")["baseline grpo"]
        return stage.state, stage.rollouts

    record = '{"kind": "grpo", "samples_per_prompt": 2}'
    checkpoint(setting.run_dir / "grpo" / "checkpoints", 6)
    assert grpo(2) == ("to do", 80)  # nobody says of which options it is
    (setting.run_dir / "grpo" / "baseline.json").write_text(record)
    assert (grpo(2), grpo(4)) == (("continues at step 6", 32), ("to do", 80))
    model = setting.run_dir / "baselines" / "grpo"
    model.mkdir(parents=True)
    assert grpo(2) == ("continues at step 6", 32)  # stopped between the model and its record
    (model / "baseline.json").write_text(record)
    assert (grpo(2), grpo(4)) == (("done", 0), ("to do", 80))


def curve(*seconds):
    return [{"step": n + 1, "step_seconds": value} for n, value in enumerate(seconds)]


def test_times_come_from_the_median_step_of_an_expert_of_this_base(setting):
    """Median step 3 s of 2 prompts x 2 samples: 0.75 s a rollout."""
    identity = setting.identity()
    other_recipe = {**identity["recipe"], "seed": 7}
    store_expert(setting.registry, {**identity, "recipe": other_recipe}, curve(100.0, 3.0, 2.0, 2.5, 4.0))
    plan = setting.plan("baselines=[opd]")
    stages = {stage.name: stage for stage in plan.stages}
    assert any("hold no scoring" in line for line in plan.assumptions)
    assert stages["expert math"].seconds == 16 * 0.75
    assert stages["merge"].seconds == stages["baseline opd"].seconds == 80 * 0.75
    assert (stages["merge"].basis, stages["merge"].source) == (
        "measured", "1 expert of this base, scaled by rollouts",
    )  # fmt: skip


def test_several_records_give_their_median_and_other_bases_none(setting):
    identity = setting.identity()
    for seed, second in ((7, 1.0), (8, 2.0), (9, 30.0)):
        recipe = {**identity["recipe"], "seed": seed}
        store_expert(setting.registry, {**identity, "recipe": recipe}, curve(second))
    store_expert(setting.registry, {**identity, "base_weights": "0" * 64}, curve(500.0))
    assert setting.stages()["merge"].seconds == 80 * 2.0 / 4


@pytest.mark.parametrize("torch, counts", [("2.11.0", False), ("2.13.0+cpu", True), (None, True)])
def test_experts_built_on_another_kind_of_device_tell_no_time(setting, torch, counts):
    identity = setting.identity()
    recipe = {**identity["recipe"], "seed": 7}
    record = store_expert(setting.registry, {**identity, "recipe": recipe}, curve(4.0))
    setting.registry.update(replace(record, versions={} if torch is None else {"torch": torch}))
    assert setting.stages()["merge"].seconds == (80 * 1.0 if counts else None)


def test_a_record_without_measured_steps_gives_no_time(setting):
    identity = setting.identity()
    recipe = {**identity["recipe"], "seed": 7}
    store_expert(setting.registry, {**identity, "recipe": recipe}, [{"step": 1, "reward": 0.5}])
    assert setting.stages()["merge"].seconds is None


def test_json_holds_the_plan(setting):
    import json

    plan = setting.plan()
    stored = json.loads(json.dumps(plan.to_json()))
    assert stored["run"] == "demo"
    assert [stage["name"] for stage in stored["stages"]] == [stage.name for stage in plan.stages]
    assert stored["scorer_passes_per_rollout"] == {"math": 2, "code": 2}
