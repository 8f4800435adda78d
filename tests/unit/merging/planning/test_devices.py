"""Which device a plan reckons with."""

from __future__ import annotations

import sys
from typing import get_args

import pytest

from configs.blocks.hardware import DeviceKind, Hardware
from merging.planning import devices
from merging.planning.devices import CPU, GPUS, chosen_device, kind_of, parsed, visible_devices
from tests.helpers.messages import say_each, says

GIB = 2**30


@pytest.fixture
def shown(monkeypatch):
    """Sets the GPUs that this machine shows."""

    def shown(*found):
        monkeypatch.setattr(devices, "visible_devices", lambda: list(found))

    return shown


def test_every_kind_of_the_config_has_its_numbers():
    assert set(GPUS) == set(get_args(DeviceKind))
    assert all(kind.endswith(f"-{device.memory // 10**9}GB") for kind, device in GPUS.items())


@pytest.mark.parametrize(
    "name, memory, kind",
    [
        ("NVIDIA H100 80GB HBM3", 80 * GIB, "H100-80GB"),
        ("NVIDIA A100-SXM4-40GB", 40 * GIB, "A100-40GB"),
        ("NVIDIA A100-SXM4-80GB", 80 * GIB, "A100-80GB"),
        ("NVIDIA L4", 22 * GIB, "L4-24GB"),
        ("NVIDIA L40S", 45 * GIB, "L40S-48GB"),
        ("NVIDIA GeForce RTX 4090", 24 * GIB, "RTX-4090-24GB"),
        ("NVIDIA GeForce RTX 3090", 24 * GIB, None),
        ("NVIDIA H20", 96 * GIB, None),
    ],
)
def test_a_drivers_name_tells_the_kind(name, memory, kind):
    assert kind_of(name, memory) == kind


def test_what_is_declared_comes_first(shown):
    shown(("NVIDIA L4", 24 * GIB))
    found = chosen_device(Hardware(device_kind="A100-40GB"))
    assert (found.device, found.has_known_memory) == (GPUS["A100-40GB"], True)


def test_else_what_the_machine_shows_with_its_own_memory(shown):
    shown(("NVIDIA H100 80GB HBM3", 79 * GIB), ("NVIDIA H100 80GB HBM3", 78 * GIB))
    found = chosen_device(Hardware())
    assert (found.device.name, found.device.memory, found.has_known_memory) == ("H100-80GB", 78 * GIB, True)
    joined = chosen_device(Hardware(ray_address="x:1"))
    assert (joined.device.name, joined.has_known_memory) == ("H100-80GB", False)
    says(joined.because, "cluster", "like it")


def test_an_unknown_device_has_an_assumed_speed(shown):
    shown(("NVIDIA H20", 96 * GIB))
    found = chosen_device(Hardware())
    assert (found.device.memory, found.has_known_memory) == (96 * GIB, True)
    assert found.device.flops == GPUS["H100-80GB"].flops
    says(found.because, "NVIDIA H20", "speed is not known", "H100-80GB")


def test_else_an_h100_is_assumed_and_its_memory_is_not_checked(shown):
    shown()
    found = chosen_device(Hardware())
    assert (found.device, found.has_known_memory) == (GPUS["H100-80GB"], False)
    says(found.because, "H100-80GB assumed", "device_kind")


def test_a_cpu_has_no_kind():
    assert chosen_device(Hardware(device="cpu")).device is CPU
    with pytest.raises(ValueError) as error:
        Hardware(device="cpu", device_kind="H100-80GB")
    say_each([str(error.value)], ("device_kind", "GPU", "leave it out"))


def test_the_driver_is_asked_for_the_visible_devices(tmp_path, monkeypatch):
    driver = tmp_path / "nvidia-smi"
    driver.write_text(
        f"#!{sys.executable}\nimport sys\n"
        "print('NVIDIA L4, 23034')\n"
        "asked = ' '.join(a for a in sys.argv if a.startswith('--id'))\n"
        "print('NVIDIA ' + asked.replace(',', '+') + ', 10')\n"
    )
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,3")
    assert visible_devices() == [("NVIDIA L4", 23034 * 2**20), ("NVIDIA --id=1+3", 10 * 2**20)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_devices() == []
    driver.write_text(f"#!{sys.executable}\nimport sys\nsys.exit(9)\n")  # no driver behind it
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert visible_devices() == []
    driver.unlink()
    assert visible_devices() == []


def test_rows_without_a_size_are_left_out():
    assert parsed(["NVIDIA B200, 183359", "NVIDIA X, [N/A]", "", "Failed to initialize"]) == [
        ("NVIDIA B200", 183359 * 2**20)
    ]
