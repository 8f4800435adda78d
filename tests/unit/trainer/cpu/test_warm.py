"""Which commands keep a fork server, and who is started from it."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil
import pytest

from common.processes import WARM_PYTHON, warm_python
from configs.schema import Hardware
from trainer.cpu import warm
from trainer.processes.private import private_folder

CPU = Hardware(device="cpu")


@pytest.fixture(autouse=True)
def light(monkeypatch):
    """Real processes that import next to nothing."""
    monkeypatch.setattr(warm, "BEFORE_RAY", ("json",))
    monkeypatch.setenv(WARM_PYTHON, "")
    monkeypatch.delenv(WARM_PYTHON)


def test_a_command_on_a_cpu_keeps_one_which_ends_with_it():
    assert warm_python() == sys.executable
    with private_folder() as folder:
        warm.start(CPU)
        python = warm_python()
        assert python.startswith(str(folder))
        warm.start(CPU)  # of another stage
        assert warm_python() == python
        code = "import os; print(os.getppid())"
        server = int(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout)
        assert server != os.getpid()
    assert not folder.exists()
    deadline = time.monotonic() + 10
    while (running := lives(server)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not running


def lives(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    "hardware", [Hardware(device="cuda"), Hardware(device="cpu", ray_address="127.0.0.1:6379")]
)
def test_neither_gpus_nor_a_joined_cluster_need_one(hardware):
    with private_folder():
        warm.start(hardware)
        assert WARM_PYTHON not in os.environ


def test_what_is_no_command_keeps_none():
    warm.start(CPU)
    assert WARM_PYTHON not in os.environ
