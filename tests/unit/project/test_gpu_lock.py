"""requirements/gpu.txt is a lock for Python 3.12 that agrees with pyproject.toml and with verl's own extras.

The last test resolves it for that platform, by metadata alone: nothing is installed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.helpers.paths import ROOT

GPU, FLASH_ATTN = ROOT / "requirements" / "gpu.txt", ROOT / "requirements" / "flash-attn.txt"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TARGET = {
    "python_version": "3.12",
    "python_full_version": "3.12.0",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
    "os_name": "posix",
}
"""Markers of the machine that the lock is for."""

VERL_EXTRAS = ("", "vllm", "fsdp", "verl-core", "cupy-cu130", "flash-attn-cu130torch211")
"""verl's extras that the stack is made of; `vllm` and `fsdp` pull in the others."""

SOURCES_ONLY = ("antlr4-python3-runtime", "stop-sequencer", "tempdir", "wget")
"""Pure Python packages of which no wheel is published; all others install without building anything."""

SAME_ON_BOTH = ("verl", "ray", "evalplus", "math-verify", "peft", "datasets", "tensordict", "transferqueue")
"""What trains, loads and grades has one version on CPUs and GPUs."""


def pins(path: Path) -> dict[str, str]:
    """Version by canonical name; every line must be an exact pin."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, version = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.]+)", line).groups()
            assert canonicalize_name(name) not in found, f"{name} is pinned twice"
            found[canonicalize_name(name)] = version
    return found


LOCK, OPTIONAL = pins(GPU), pins(FLASH_ATTN)


def holds(requirement: Requirement, extras: tuple[str, ...] = VERL_EXTRAS) -> bool:
    """Whether it is asked for on the target with any of these extras."""
    marker = requirement.marker
    return marker is None or any(marker.evaluate({**TARGET, "extra": extra}) for extra in extras)


def unmet(requirements: list[str], extras: tuple[str, ...] = ("",)) -> list[str]:
    """Those that are asked for on the target and that no pin satisfies."""
    found = []
    for requirement in map(Requirement, requirements):
        pinned = {**LOCK, **OPTIONAL}.get(canonicalize_name(requirement.name))
        unmatched = pinned is None or Version(pinned) not in requirement.specifier
        if unmatched and holds(requirement, extras):
            found.append(f"{requirement}: pinned {pinned}")
    return found


def test_the_check_sees_what_is_missing_or_other():
    assert unmet(["torch==2.11.0", "verl[vllm]>=0.9", "apex; extra == 'megatron'"]) == []
    assert unmet(["torch>=3", "no-such-package", "apex; extra == 'm'"], ("m",)) == [
        f"torch>=3: pinned {LOCK['torch']}",
        "no-such-package: pinned None",
        'apex; extra == "m": pinned None',
    ]


def test_it_is_sorted_by_name():
    assert list(LOCK) == sorted(LOCK)


def test_it_holds_what_the_project_asks_for():
    extras = PROJECT["optional-dependencies"]
    assert unmet([*PROJECT["dependencies"], *extras["gpu"], *extras["flash-attn"]]) == []


def test_it_holds_what_verl_asks_for_with_its_extras_for_vllm_and_fsdp():
    assert LOCK["verl"] == "0.9.1"
    asked = [Requirement(line) for line in requires("verl")]
    own = [requirement for requirement in asked if requirement.name == "verl" and holds(requirement)]
    assert set().union(*(requirement.extras for requirement in own)) <= set(VERL_EXTRAS)
    assert unmet([str(requirement) for requirement in asked if requirement.name != "verl"], VERL_EXTRAS) == []


def test_flash_attention_is_an_option():
    """It is compiled from source, so it must not stand in the way of everything else."""
    assert OPTIONAL == {"flash-attn": "2.8.3"} and "flash-attn" not in LOCK
    built_with = ("torch", "einops", "ninja", "packaging", "psutil", "setuptools", "wheel")
    assert [name for name in built_with if name not in LOCK] == []


@pytest.mark.parametrize("name", SAME_ON_BOTH)
def test_what_trains_and_grades_is_the_same_on_cpus(name):
    assert LOCK[name] == pins(ROOT / "requirements" / "cpu.txt")[name]


def test_python_3_12_is_stated_where_users_look():
    assert "Programming Language :: Python :: 3.12" in PROJECT["classifiers"]
    for place in ("README.md", "docs/gpu_and_cluster.md", "CONTRIBUTING.md"):
        assert re.search(r"GPU[^\n]*Python 3\.12|Python 3\.12[^\n]*GPU", (ROOT / place).read_text()), place


# ------------------------------------------------------------------------------------------ make gpu

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(*arguments: str) -> subprocess.CompletedProcess:
    """A `make` of its own: with the flags of the `make` that runs these tests it would say where it works."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=ROOT, env=clean, capture_output=True, text=True, check=False)


@needs_make
@pytest.mark.parametrize("python", ["/no/such/python", "false"])
def test_make_gpu_refuses_another_python_in_one_message(tmp_path, python):
    ended = make("gpu", f"GPU_PYTHON={python}", f"GPU_VENV={tmp_path / 'venv'}")
    assert ended.returncode != 0 and not (tmp_path / "venv").exists()
    first, *_ = ended.stderr.splitlines()
    assert first == (
        f"make gpu: the GPU stack needs Python 3.12, and '{python}' is not that; name one: "
        "make gpu GPU_PYTHON=/path/to/python3.12"
    )


@needs_make
def test_make_gpu_builds_an_environment_of_its_own_from_the_lock(tmp_path):
    venv = tmp_path / "venv"
    lines = make("-n", "gpu", f"GPU_VENV={venv}").stdout.splitlines()
    installs = [line.partition("pip install")[2] for line in lines if "pip install" in line]
    assert [line.split()[-1] for line in installs[:2]] == ["requirements/gpu.txt", "."]
    assert all("--no-deps" in line for line in installs)
    assert "flash-attn" in installs[2] and "|| echo" in installs[2]
    assert lines[-1] == f"touch {venv}/.protege-gpu"
    built = make("-n", "flash-attn", f"GPU_VENV={venv}", "FLASH_ATTN=/wheels/own.whl").stdout.splitlines()
    assert built[-1].endswith("--no-deps --no-build-isolation /wheels/own.whl")


# --------------------------------------------------------------------------------------- the index

NO_INDEX = ("Failed to fetch", "error sending request", "the network was disabled")
"""uv's words where it reaches none."""


@pytest.mark.network
def test_it_resolves_for_python_3_12_and_is_complete(tmp_path):
    """With all dependencies: the result is the lock again, so no pin is missing and none contradicts."""
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if uv is None:
        pytest.skip("uv is not installed; requirements/cpu.txt has it")
    target = ["--python-version", "3.12", "--python-platform", "x86_64-manylinux_2_31"]
    wheels = ["--only-binary", ":all:", *(part for name in SOURCES_ONLY for part in ("--no-binary", name))]
    how = ["--no-header", "--no-annotate", "--quiet"]
    ended = subprocess.run(
        [uv, "pip", "compile", *target, *wheels, *how, GPU],
        env={**os.environ, "UV_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if any(sign in ended.stderr for sign in NO_INDEX):
        pytest.skip(f"no package index: {ended.stderr.strip().splitlines()[-1]}")
    assert ended.returncode == 0, ended.stderr
    resolved = tmp_path / "resolved.txt"
    resolved.write_text(ended.stdout, encoding="utf-8")
    assert pins(resolved) == LOCK
