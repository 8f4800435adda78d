"""The plan of the quickstart, with nothing measured, beside what a run of it took."""

from __future__ import annotations

import pytest

from configs.load import load_config
from merging.checks.preflight import preflight
from merging.planning.device_memory import device_memory
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
