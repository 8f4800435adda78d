"""Runs that use the same devices take turns; others do not wait, and have job numbers of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from common.errors import RunFailed
from tests.helpers.messages import refuses, say_each, says
from tests.helpers.paths import ROOT
from trainer.processes import machine_lock as module
from trainer.processes.machine_lock import CPU, job_number, machine_lock, visible_devices

HOLDER = """
import pathlib, sys, time
from trainer.processes.machine_lock import job_number, machine_lock
folder, devices = pathlib.Path(sys.argv[1]), sys.argv[2].split(",")
with machine_lock("runs/first", devices, print, folder), job_number(folder) as number:
    print("held", number, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Starts processes that hold devices until they are killed; each returns its process and job number."""
    processes = []

    def start(*devices):
        command = [sys.executable, "-c", HOLDER, str(tmp_path), ",".join(devices)]
        processes.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True))
        held, number = processes[-1].stdout.readline().split()
        assert held == "held"
        return processes[-1], int(number)

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


class Second:
    """Another run, in a thread."""

    def __init__(self, folder, *devices):
        self.said, self.entered, self.leave = [], threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self.run, args=(folder, devices), daemon=True)
        self.thread.start()

    def run(self, folder, devices):
        with machine_lock("second", devices, self.said.append, folder):
            self.entered.set()
            self.leave.wait(30)

    def end(self):
        self.leave.set()
        self.thread.join(10)
        assert not self.thread.is_alive()


@pytest.mark.parametrize("device", [CPU, "GPU-4"])
def test_a_second_run_says_for_whom_it_waits_and_starts_when_that_one_was_killed(tmp_path, holder, device):
    first, _ = holder(device)
    second = Second(tmp_path, device)
    assert not second.entered.wait(1)
    told = (
        "another run",
        f"pid {first.pid}, -c {tmp_path} {device}, since",
        "in runs/first",
        "CPU" if device == CPU else "GPU GPU-4",
    )
    say_each(second.said, (*told, "hardware.ray_address" if device == CPU else "CUDA_VISIBLE_DEVICES"))
    first.send_signal(signal.SIGKILL)
    assert second.entered.wait(10)
    second.end()
    assert f"pid {os.getpid()}," in (tmp_path / f"protege-training-{device}.lock").read_text()


def test_runs_on_disjoint_devices_do_not_wait(tmp_path, holder):
    _, first = holder("0", "1")
    _, second = holder("2", "3")
    assert {first, second} == {1, 2}
    third = Second(tmp_path, "4", "5")
    assert third.entered.wait(10) and third.said == []
    third.end()
    with job_number(tmp_path) as number:
        assert number == 3


def test_a_run_that_waits_for_one_device_holds_no_other(tmp_path, holder):
    first, _ = holder("2", "3")
    waiting = Second(tmp_path, "1", "2")
    assert not waiting.entered.wait(1)
    holder("1")  # would hang if the waiting run held it
    first.kill()
    assert not waiting.entered.wait(1)
    say_each(waiting.said, ("GPU 2",), ("GPU 1",))


def test_the_order_in_which_devices_are_named_locks_nothing_up(tmp_path):
    runs = [Second(tmp_path, *devices) for devices in ("012", "210", "120")]
    for _ in runs:
        next(run for run in runs if run.entered.wait(2) and not run.leave.is_set()).end()


def test_free_locks_are_taken_without_a_word(tmp_path):
    said = []
    for _ in range(2):
        with machine_lock("one", ["0", "1"], said.append, tmp_path):
            pass
    assert said == []


def test_a_lock_that_may_not_be_opened_stops_nothing(tmp_path):
    (tmp_path / f"protege-training-{CPU}.lock").mkdir()
    with machine_lock("one", [CPU], print, tmp_path):
        pass


def test_job_numbers_come_back_and_may_run_out(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "JOB_NUMBERS", 2)
    with job_number(tmp_path) as first, job_number(tmp_path) as second:
        assert (first, second) == (1, 2)
        with refuses("2 runs", "end one", error=RunFailed), job_number(tmp_path):
            pass
    with job_number(tmp_path) as again:
        assert again == 1


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """Three GPUs as NVIDIA's driver lists them, by their address on the bus."""
    for address, uuid in (
        ("0000:3b:00.0", "GPU-bbb1"),
        ("0000:18:00.0", "GPU-aaa0"),
        ("0000:af:00.0", "GPU-ccc2"),
    ):
        folder = tmp_path / "gpus" / address
        folder.mkdir(parents=True)
        (folder / "information").write_text(
            f"Model: \t\t NVIDIA H100\nGPU UUID: \t {uuid}\nDevice Minor: \t 7\n"
        )
    monkeypatch.setattr(module, "DRIVER", tmp_path)


@pytest.mark.parametrize(
    "chosen, devices",
    [
        (None, ["GPU-aaa0", "GPU-bbb1", "GPU-ccc2"]),
        ("2,0", ["GPU-ccc2", "GPU-aaa0"]),
        ("GPU-bbb", ["GPU-bbb1"]),  # the same device under another name is the same lock
        ("1", ["GPU-bbb1"]),
        ("MIG-77", ["MIG-77"]),
        ("", []),
    ],
)
def test_a_device_has_one_name(driver, monkeypatch, chosen, devices):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert visible_devices("cuda") == devices
    assert visible_devices("cpu") == [CPU]


def test_without_the_drivers_list_devices_are_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "DRIVER", tmp_path)
    monkeypatch.setattr(module.glob, "glob", lambda _: ["/dev/nvidia0", "/dev/nvidia1"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_devices("cuda") == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6")
    says(",".join(visible_devices("cuda")), "5,6")
