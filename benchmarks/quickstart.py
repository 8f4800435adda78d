"""What a finished run took on this machine: `python -m benchmarks.quickstart RUN`.

Reads a run folder's own records and times the command line; prints each figure beside its goal.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from teachers.provenance import machine
from trainer.run import attempts, read_metrics

GIB = 2**30
HELP_TRIES = 5


def main() -> None:
    """Prints the table; exits with 2 where the folder holds no finished run."""
    run = Path(sys.argv[1]) if len(sys.argv) == 2 else Path("runs/quickstart")
    if not (run / "manifest.json").exists():
        sys.exit(f"{run}: no finished run (usage: python -m benchmarks.quickstart RUN)")
    measured = json.loads((run / "measured.json").read_text())
    print(machine())
    for stage, seconds in measured["wall_seconds"].items():
        print(f"{stage:24} {seconds:8.1f} s")
    total = sum(measured["wall_seconds"].values())
    print(f"{'all stages':24} {total:8.1f} s   goal: under 900 s")
    print(f"{'merge to first rollout':24} {first_rollout_seconds(run):8.1f} s   goal: under 90 s")
    print(f"{'merge step, median':24} {median_step_seconds(run):8.2f} s")
    print(f"{'peak memory':24} {measured['peak_memory_bytes'] / GIB:8.1f} GiB goal: under 12 GiB")
    print(f"{'protege --help, best':24} {help_seconds():8.2f} s   goal: under 0.5 s")


def first_rollout_seconds(run: Path) -> float:
    """From the start of the attempt that ran the merge's first step to the beginning of that step."""
    first = read_metrics(run / "train")[0]
    begins = first["time"] - first["timing_s/step"]
    return begins - max(attempt for attempt in attempts(run / "train") if attempt <= begins)


def median_step_seconds(run: Path) -> float:
    """Median of the merge's steps without the first, which also warms up."""
    steps = sorted(row["timing_s/step"] for row in read_metrics(run / "train")[1:])
    return steps[len(steps) // 2]


def help_seconds() -> float:
    """Best of some tries of `protege --help`, in a process of its own each."""
    command = [str(Path(sys.executable).with_name("protege")), "--help"]
    times = []
    for _ in range(HELP_TRIES):
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - began)
    return min(times)


if __name__ == "__main__":
    main()
