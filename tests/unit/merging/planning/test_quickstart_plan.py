"""The plan of the quickstart, with nothing measured, beside what a run of it took."""

from __future__ import annotations

import pytest

from configs.load import load_config
from merging.checks.preflight import preflight
from merging.planning.device_memory import device_memory
from merging.planning.memory import disk_parts, main_memory
from merging.planning.plan import make_plan
from tests.helpers.paths import ROOT

MEASURED = {"expert math": 149, "expert code": 338, "merge": 293, "evaluation": 47}
"""Seconds by stage of a run on two cores (docs/LOG.md, "The quickstart from a fresh clone")."""


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart")
    loaded = load_config(ROOT / "configs/runs/quickstart.yaml", [f"registry={folder / 'registry'}"])
    return make_plan(loaded, folder / "run")


def test_arithmetic_is_near_what_was_measured(plan):
    stages = {stage.name: stage for stage in plan.stages}
    assert {stage.basis for stage in plan.stages} == {"estimated"}
    for name, seconds in MEASURED.items():
        assert seconds / 2 < stages[name].seconds < 2 * seconds, name
    assert 0.75 < plan.seconds / 836 < 1.33


def test_it_says_what_it_rests_on(plan):
    assert any("two idle cores" in line for line in plan.assumptions)
    assert any("nothing was measured" in line for line in plan.assumptions)
    assert any("24 of 48 tokens on average (assumed" in line for line in plan.assumptions)


def test_main_memory_by_part(plan):
    (held,) = plan.memory
    one = 829_312 * 4
    assert held.phases["merge"] == {
        "weights": one, "gradients": one, "optimizer": 2 * one, "rollout": one, "scorer": 3 * one,
        "processes": 4 * 2**30,
    }  # fmt: skip


def test_chunks_hold_no_more_logits_than_there_are(tmp_path):
    """A vocabulary of 99: the step's 4,096 tokens in the update, 2,048 positions in the scorer."""
    overrides = (f"registry={tmp_path}", "hardware.device=cuda", "hardware.device_kind=H100-80GB")
    loaded = load_config(ROOT / "configs/runs/quickstart.yaml", overrides)
    found = preflight(loaded, tmp_path / "run", is_elsewhere=True)
    merge, expert = device_memory(loaded.config, found.fingerprints, 80 * 10**9, True)
    assert merge.phases["update"]["logits"] == 12 * 4096 * 99 + 6 * 99 * 128
    reading = 4096 * (8 * 128 + 2 * 128 + 6 * 352)
    waiting = 2 * 2 * 128 * 96 * 48
    assert merge.phases["rollout"]["scoring"] == reading + 2 * 12 * 2048 * 99 + waiting
    assert expert.title in ("expert math", "expert code") and "scorer" not in expert.parts


def test_an_adapter_has_small_moments_and_gradients(tmp_path):
    """The base is 829,312 numbers; of rank 16 on all matrices but embedding and head the adapter has 16 times
    the sum of their rows and columns: 4 layers of 4 * 256 + 3 * (128 + 352)."""
    overrides = (f"registry={tmp_path}", "hardware.device=cuda", "hardware.device_kind=H100-80GB")
    loaded = load_config(ROOT / "configs/runs/lora_experts.yaml", overrides)
    found = preflight(loaded, tmp_path / "run", is_elsewhere=True)
    _, expert = device_memory(loaded.config, found.fingerprints, 80 * 10**9, True)
    adapter = 16 * 4 * (4 * 256 + 3 * 480)
    update = expert.phases["update"]
    assert (update["weights"], update["optimizer"]) == (4 * 829_312, 8 * adapter)
    assert update["gradients"] == 2 * 4 * adapter


BASE, ADAPTER = 829_312, 16 * 4 * (4 * 256 + 3 * 480)
"""Numbers of the base, and of an adapter of rank 16 on it, as above."""
SENT = "base while weights are sent"


def planned(tmp_path, *overrides):
    """Config and fingerprints of the run whose experts and student are adapters."""
    given = (f"registry={tmp_path}", "training.full_model=false", *overrides)
    loaded = load_config(ROOT / "configs/runs/lora_student.yaml", given)
    return loaded, preflight(loaded, tmp_path / "run", is_elsewhere=True)


def test_a_student_that_is_an_adapter_has_its_moments_gradients_and_checkpoints(tmp_path):
    gpu = ("hardware.device=cuda", "hardware.device_kind=H100-80GB", "baselines=[opd, teacher_more]")
    loaded, found = planned(tmp_path, *gpu, "polish={steps: 1}", "hardware.offload=all")
    models = found.fingerprints
    held = {one.title: one for one in device_memory(loaded.config, models, 80 * 10**9, True, ROWS)}
    (control,) = [title for title in held if title.startswith("teacher_more")]  # the larger one
    for title in ("merge", "polish", control):
        update = held[title].phases["update"]
        assert (update["weights"], update["optimizer"]) == (4 * BASE, 8 * ADAPTER), title
        assert update["gradients"] == 2 * 4 * ADAPTER, title
    host = main_memory(loaded.config, models, 0).phases["training"]
    assert (host["offloaded"], host[SENT]) == (4 * BASE + 12 * ADAPTER, 4 * BASE)


def test_on_a_cpu_the_students_own_weights_are_kept_while_both_are_sent(tmp_path):
    loaded, found = planned(tmp_path)
    merge = main_memory(loaded.config, found.fingerprints, 0).phases["merge"]
    assert merge == {
        "weights": 4 * (BASE + ADAPTER), "gradients": 4 * ADAPTER, "optimizer": 8 * ADAPTER,
        "rollout": 4 * BASE, SENT: 4 * BASE, "scorer": 0, "processes": 4 * 2**30,
    }  # fmt: skip


def test_checkpoints_are_the_adapters_and_each_one_has_its_full_model(tmp_path):
    def disk(*overrides):
        loaded, found = planned(tmp_path, *overrides)
        return disk_parts(loaded.config, found.fingerprints)

    one = disk("baselines=[]")
    # the merge and two experts, two checkpoints each of 12 bytes a number
    assert one["checkpoints"] == 2 * 12 * 3 * ADAPTER
    # both experts and the student as full models, and the student's adapter
    assert one["models"] == 4 * (3 * BASE + ADAPTER)
    assert disk("baselines=[]", "training.full_model=true")["models"] - one["models"] == 4 * BASE
    more = disk("baselines=[opd, grpo]")
    assert more["checkpoints"] - one["checkpoints"] == 2 * 12 * 2 * ADAPTER
    assert more["models"] - one["models"] == 4 * 2 * (BASE + ADAPTER)
    polished = disk("baselines=[teacher_more]", "polish={steps: 1}")
    assert polished["checkpoints"] - one["checkpoints"] == 2 * 12 * 3 * ADAPTER
    assert polished["models"] - one["models"] == 4 * 3 * (BASE + ADAPTER)
    whole = disk("baselines=[]", "training.lora_rank=null")
    assert whole["checkpoints"] == 2 * 12 * (BASE + 2 * ADAPTER) and whole["models"] == 4 * 3 * BASE


def test_the_update_of_an_adapter_is_shorter_and_its_checkpoints_small(tmp_path):
    def step(*overrides):
        loaded, _ = planned(tmp_path, "polish={steps: 2}", *overrides)
        stages = {stage.name: stage for stage in make_plan(loaded, tmp_path / "run").stages}
        return {name: stages[name].step_seconds for name in ("merge", "polish", "baseline opd")}

    adapter, whole = step(), step("training.lora_rank=null")
    for name, parts in whole.items():
        assert adapter[name]["update"] == pytest.approx(parts["update"] * 2 / 3, rel=0.05), name
        assert adapter[name]["checkpoints"] <= parts["checkpoints"], name
        assert adapter[name]["rollout"] == parts["rollout"], name


ROWS = {"math": 64, "code": 64}
