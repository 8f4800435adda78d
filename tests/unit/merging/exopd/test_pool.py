"""Servers of the pool on devices and nodes, and what verl is told of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from common.errors import ConfigError
from merging.checks.found import Preflight
from merging.checks.machine import devices
from merging.exopd.job import logical_gpus, merge_job
from merging.exopd.pool import ModelServers, widest_pool
from tests.helpers.merge_jobs import TEACHERS, config_with
from tests.helpers.messages import refuses
from tests.helpers.paths import ROOT
from trainer.overrides import verl_config

POOL = ("scorer.kind", "pool", "hardware.device", "cuda")


def layout(*changes):
    return widest_pool(config_with(*POOL, *changes))


def test_every_model_has_one_server_unless_something_is_said():
    found = layout()
    assert found.servers == dict.fromkeys(("math", "code", "reference"), ModelServers(1, 1))
    assert (found.devices, found.nodes, found.devices_per_node) == (3, 1, 3)
    assert layout("hardware.scorer_gpus", 2).devices == 6


def test_models_have_their_own_replicas_and_width_and_the_widest_come_first():
    found = layout(
        "scorer.pool.default", {"replicas": 2},
        "scorer.pool.models", {"code": {"replicas": 1, "tensor_parallel": 4}, "reference": {"replicas": 3}},
    )  # fmt: skip
    assert list(found.servers.items()) == [
        ("code", ModelServers(1, 4)), ("math", ModelServers(2, 1)), ("reference", ModelServers(3, 1)),
    ]  # fmt: skip
    assert found.devices == 4 + 2 + 3


def test_the_width_is_a_models_own_else_the_default_else_the_hardwares():
    widths = {"scorer.pool.models": {"math": {"tensor_parallel": 8}}, "hardware.scorer_gpus": 2}
    flat = [part for item in widths.items() for part in item]
    assert {name: own.tensor_parallel for name, own in layout(*flat).servers.items()} == {
        "math": 8, "code": 2, "reference": 2,
    }  # fmt: skip
    assert layout(*flat, "scorer.pool.default", {"tensor_parallel": 4}).servers["code"].tensor_parallel == 4


def test_references_of_single_domains_have_the_references_servers():
    experts = [
        part
        for name in TEACHERS
        for part in (f"domains.{name}.expert", {"kind": "model", "path": "/x", "base": f"/base/{name}"})
    ]
    own = ("scorer.pool.models", {"reference": {"replicas": 2}})
    found = layout("objective.reference", "teacher_base", *experts, *own)
    assert {name: own.replicas for name, own in found.servers.items()} == {
        "math": 1, "code": 1, "reference:1": 2, "reference:2": 2,
    }  # fmt: skip


def test_what_a_server_of_ones_own_reads_is_not_in_the_pool():
    served = {"kind": "served", "url": "http://host/v1", "model": "m"}
    assert layout("domains.math.expert", served).servers.keys() == {"code", "reference"}
    reference = {**served, "model": "base"}
    assert layout("objective.reference", reference).servers.keys() == {"math", "code"}
    everything = ("domains.math.expert", served, "domains.code.expert", served)
    with refuses("scorer.kind: pool has no model to hold", "use shared", error=ValueError):
        layout(*everything, "objective.reference", reference)
    with refuses("scorer.pool.models.math", "server of its own", error=ValueError):
        layout("domains.math.expert", served, "scorer.pool.models", {"math": {"replicas": 2}})


def test_a_name_that_is_no_model_is_refused():
    with refuses("scorer.pool.models: 'maths'", "math, code, reference", error=ValueError):
        layout("scorer.pool.models", {"maths": {"replicas": 2}})


# ------------------------------------------------------------------------------------------- nodes


def across(nodes: int, **models) -> tuple:
    return ("scorer.pool.nodes", nodes, "scorer.pool.models", models, "hardware.ray_address", "head:6379")


def test_two_nodes_hold_what_fits_them_evenly():
    wide, narrow = {"tensor_parallel": 4}, {"replicas": 4}
    found = layout(*across(2, math=wide, code={"replicas": 2, "tensor_parallel": 2}, reference=narrow))
    assert [*found.servers] == ["math", "code", "reference"]
    assert (found.devices, found.devices_per_node) == (12, 6)


def test_the_example_of_the_document():
    text = (ROOT / "docs" / "scorer.md").read_text(encoding="utf-8")
    block = text.split("# The pool's servers")[1].split("```yaml\n")[1].split("```")[0]
    pool = yaml.safe_load(block)["scorer"]["pool"]
    found = layout("scorer.pool", pool, "hardware.ray_address", "head:6379")
    assert (found.devices, found.devices_per_node) == (16, 8) and next(iter(found.servers)) == "math"


def test_a_server_may_take_whole_nodes():
    found = layout(
        *across(4, math={"tensor_parallel": 8}, code={"replicas": 4}, reference={"tensor_parallel": 4})
    )
    assert [*found.servers] == ["math", "reference", "code"] and found.devices_per_node == 4


def test_devices_that_do_not_spread_evenly_are_refused():
    with refuses("scorer.pool.nodes = 2 does not divide the pool's 5 devices", "(1 x 3 + 1 x 1 + 1 x 1"):
        layout(*across(2, math={"tensor_parallel": 3}))


def test_a_server_across_nodes_is_refused_as_verl_would():
    with refuses("a server of code (tensor_parallel 3) would lie across the nodes", "each of 4"):
        layout(
            *across(2, math={"tensor_parallel": 3}, code={"tensor_parallel": 3}, reference={"replicas": 2})
        )


# -------------------------------------------------------------------------------------------- verl


def distillation(*changes):
    job = merge_job(config_with(*POOL, *changes), "merge", TEACHERS, Path("t"), Path("f"))
    return verl_config(job, "m").distillation


ACROSS = across(2, math={"replicas": 2, "tensor_parallel": 4}, code={"replicas": 4, "tensor_parallel": 2},
                reference={"replicas": 8})  # fmt: skip


def test_verl_is_told_the_layout():
    found = distillation(*ACROSS)
    entries = [value for key, value in found.teacher_models.items() if key.startswith("teacher_") and
               key != "teacher_model"]  # fmt: skip
    told = [(e.key, e.num_replicas, e.inference.tensor_model_parallel_size) for e in entries]
    assert told == [("math", 2, 4), ("code", 4, 2), ("reference", 8, 1)]
    assert (found.nnodes, found.n_gpus_per_node) == (2, 12)
    assert logical_gpus(config_with(*POOL, *ACROSS)) == 1 + 24


@pytest.mark.parametrize("changes", [(), ("hardware.scorer_gpus", 2), ACROSS])
def test_verl_accepts_it_and_no_server_lies_across_nodes(changes):
    """verl's own check of the sum, and the span of each server as verl computes it."""
    from omegaconf import OmegaConf
    from verl.utils.config import omega_conf_to_dataclass

    import merging.exopd.loss  # noqa: F401 - registers the loss that is named

    job = merge_job(config_with(*POOL, *changes), "merge", TEACHERS, Path("t"), Path("f"))
    config = verl_config(job, "m")
    OmegaConf.resolve(config.distillation)
    told = omega_conf_to_dataclass(config.distillation)
    start, size = 0, told.n_gpus_per_node
    for teacher in told.teacher_models.values():
        width = teacher.per_replica_world_size
        for _ in range(teacher.num_replicas):
            assert (start + width - 1) // size - start // size + 1 == -(-width // size)
            start += width
    assert start == told.nnodes * size


# --------------------------------------------------------------------------------------- preflight


def refusal(*changes) -> str:
    with pytest.raises(ConfigError) as caught:
        devices(Preflight(config=config_with(*POOL, *changes), run_dir=Path("run")))
    return str(caught.value)


def test_more_devices_than_the_machine_has_are_refused(monkeypatch):
    monkeypatch.setattr("merging.checks.machine.visible_gpus", lambda: 4)
    assert "hardware.gpus = 2 and 3 for the pool's servers, and this machine shows 4" in refusal(
        "hardware.gpus", 2
    )
    devices(Preflight(config=config_with(*POOL), run_dir=Path("run")))  # 1 + 3


def test_several_nodes_need_a_cluster():
    assert "scorer.pool.nodes = 3: hardware.ray_address must name" in refusal("scorer.pool.nodes", 3)


def test_an_uneven_pool_is_refused_before_anything_starts():
    assert "does not divide the pool's 3 devices" in refusal(*across(2))
