"""Every benchmark, one after another: `python -m benchmarks [--quick] [NAME ...]`.

Each prints ratios against a baseline that it measures in the same run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

BENCHMARKS = {
    "step": "a step of the merge against a plain loop of transformers and torch",
    "startup": "start-up of processes: plain Python against the fork server",
    "scorer": "the shared scorer against the number of teachers",
    "scorer_replicas": "two replicas of the shared scorer against one",
    "grading": "our graders against evalplus.evaluate and math-verify",
    "sandbox": "a job in the sandbox against a plain process",
    "routers": "check, route and the learned router on many prompts",
    "threads": "an update with one and two threads",
    "estimators": "bias and variance of the objective's estimators",
}
"""Module in this folder, and what it measures. `disturb`, `kill_build`, `kill_parts` and `quickstart` are not
among them: they need a config or a finished run."""

QUICK = {"step", "scorer", "scorer_replicas", "grading", "sandbox", "routers", "threads"}
"""Those with an option --quick."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs them; exits with 1 if one failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="; ".join(f"{name}: {what}" for name, what in BENCHMARKS.items()),
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)} [all]")
    parser.add_argument("--quick", action="store_true", help="smaller sizes, fewer rounds")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(BENCHMARKS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; valid: {', '.join(BENCHMARKS)}")
    failed = [name for name in options.names or BENCHMARKS if not run(name, options.quick)]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def command(name: str, quick: bool) -> list[str]:
    """What runs a benchmark."""
    return [sys.executable, "-m", f"benchmarks.{name}", *(["--quick"] if quick and name in QUICK else [])]


def run(name: str, quick: bool) -> bool:
    """Runs a benchmark in a process of its own; whether it ended well."""
    print(f"\n== {name}: {BENCHMARKS[name]}", flush=True)
    return subprocess.run(command(name, quick), cwd=Path(__file__).resolve().parents[1]).returncode == 0


if __name__ == "__main__":
    main()
