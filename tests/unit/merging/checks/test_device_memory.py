"""Device memory: what is refused on GPUs, with which advice, and where nothing is refused."""

from __future__ import annotations

import pytest

from merging.checks import machine
from merging.planning import devices
from tests.helpers.messages import say_each
from tests.helpers.paper_plan import QWEN3_4B, model_of_widths, paper_config, paper_found

GIB = 2**30


@pytest.fixture
def found(tmp_path, monkeypatch):
    """What the check finds of paper.yaml with these overrides, on a machine that shows no GPU."""
    monkeypatch.setattr(devices, "visible_devices", lambda: [])

    def found(*overrides, **models):
        return machine.memory(paper_found(tmp_path, paper_config(tmp_path, *overrides), **models))

    return found


def test_the_paper_fits_eighty_gigabytes(found):
    kept = found("hardware.device_kind=H100-80GB")
    assert kept.problems == ()
    (held,) = kept.device_memory
    assert (held.title, held.phase, held.fits, held.available) == ("merge", "rollout", True, 80 * 10**9)


@pytest.mark.parametrize(
    "overrides, facts",
    [
        (
            ["hardware.device_kind=H100-80GB", "hardware.tokens_per_device=163840"],
            ("memory: the merge holds about", "80.0 GB (H100-80GB)", "in its update", "activations 64.3 GB",
             "hardware.tokens_per_device (163840)", "sequence_parallel (1)"),
        ),
        (
            ["hardware.device_kind=H100-80GB", "hardware.rollout_memory_fraction=0.8"],
            ("in its rollout", "rollout and its cache 64.0 GB", "scorer 8.0 GB",
             "hardware.rollout_memory_fraction (0.8)", "hardware.offload (none)"),
        ),
        (
            ["hardware.device_kind=H100-80GB", "hardware.rollout_memory_fraction=0.1"],
            ("hardware.rollout_memory_fraction = 0.1", "is 8.0 GB", "engine of student takes 12.8 GB",
             "hardware.rollout_tensor_parallel (1)"),
        ),
    ],
    ids=["update", "rollout", "share"],
)  # fmt: skip
def test_too_little_device_memory_is_refused(found, overrides, facts):
    say_each(list(found(*overrides).problems), facts)


def test_a_server_of_the_pool_needs_room_beside_its_share(found):
    pool = ("hardware.device_kind=H100-80GB", "scorer.kind=pool")
    assert not found(*pool).problems
    server, merge = ("teacher server holds about", "logits of a chunk 3.1 GB"), ("merge", "rollout")
    tight = found(*pool, "hardware.rollout_memory_fraction=0.95")
    say_each(list(tight.problems), merge, server)
    small = found(*pool, "hardware.rollout_memory_fraction=0.1").problems
    say_each(list(small), ("engine of", "12.8 GB"))


def test_offloaded_moments_make_room_for_the_rollout(found):
    tight = ("hardware.device_kind=H100-80GB", "hardware.rollout_memory_fraction=0.8")
    assert found(*tight).problems
    assert not found(*tight, "hardware.offload=all").problems


def test_what_was_advised_helps(found):
    big = ("hardware.device_kind=H100-80GB", "hardware.tokens_per_device=163840")
    assert not found("hardware.device_kind=H100-80GB", "hardware.tokens_per_device=32768").problems
    assert not found("hardware.device_kind=H200-141GB", big[1]).problems
    small = ("hardware.device_kind=A100-40GB", "hardware.rollout_memory_fraction=0.4")
    large = (*small, "hardware.tokens_per_device=65536")
    say_each(list(found(*large).problems), ("A100-40GB", "in its update", "tokens_per_device (65536)"))
    assert not found(*small, "hardware.tokens_per_device=18432").problems


def test_a_visible_device_is_checked_by_its_own_size(found, monkeypatch):
    monkeypatch.setattr(devices, "visible_devices", lambda: [("NVIDIA L4", 22 * GIB)])
    assert found().problems
    monkeypatch.setattr(devices, "visible_devices", lambda: [("NVIDIA H200", 140 * GIB)])
    assert not found().problems


def test_nothing_is_refused_where_the_devices_are_not_known(found, monkeypatch):
    assert not found("hardware.rollout_memory_fraction=0.95").problems
    monkeypatch.setattr(devices, "visible_devices", lambda: [("NVIDIA L4", 22 * GIB)])
    cluster = ("hardware.ray_address=x:1",)
    assert not found(*cluster).problems  # this node's is not that of all
    assert found(*cluster, "hardware.device_kind=L4-24GB").problems


def test_a_mixture_of_experts_is_neither_modelled_nor_refused(found, tmp_path):
    mixture = model_of_widths(tmp_path / "mixture", {**QWEN3_4B, "num_experts": 128})
    kept = found("hardware.device_kind=L4-24GB", student=mixture)
    (held,) = kept.device_memory
    assert held.phases == {} and not kept.problems
    assert held.not_modelled == "qwen3: the memory of a mixture of experts is not modelled"
