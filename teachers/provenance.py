"""What a result was made with."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from pathlib import Path

from common.digests import installed_version

PACKAGES = ("protege", "verl", "ray", "vllm", "torch", "transformers", "evalplus", "math-verify")


@cache
def _versions() -> tuple[tuple[str, str], ...]:
    installed = {name: installed_version(name) or "not installed" for name in PACKAGES}
    found = {"python": platform.python_version(), **installed}
    found |= {"machine": machine(), "commit": _commit()}
    return tuple(found.items())


def versions() -> dict[str, str]:
    """Versions of Python and the packages that matter, the machine, and this project's commit."""
    return dict(_versions())


def machine() -> str:
    """Host, processor, cores and memory in one line."""
    import psutil

    memory = psutil.virtual_memory().total / 2**30
    return f"{platform.node()}: {_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _commit() -> str:
    """Commit of the checkout this code runs from, marked where files differ from it."""
    folder = Path(__file__).resolve().parent.parent
    try:
        head = _git(folder, "rev-parse", "--short=12", "HEAD")
        return head + ("-dirty" if _git(folder, "status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "not a checkout"


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
