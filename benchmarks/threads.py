"""One and two threads of torch, which wait busily or not: `python -m benchmarks.threads [--quick]`.

The plain loop of `benchmarks/step` trains with each, in turns, a process each; the baseline is one thread.
Threads that wait for each other busily, OpenMP's default, suffer from whatever else runs on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.step.models import SIZES, STUDENT, TEACHERS, make_models
from benchmarks.step.plain_loop import Settings
from benchmarks.timing import Spread
from teachers.provenance import machine

DEMO = STUDENT.parent
WAYS = {
    "1 thread": {"OMP_NUM_THREADS": "1"},
    "2 threads": {"OMP_NUM_THREADS": "2"},
    "2 threads, passive": {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"},
}
"""The first one is the baseline."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.threads", description=main.__doc__)
    parser.add_argument("--size", nargs="+", choices=list(SIZES), default=["demo", "larger"])
    parser.add_argument("--quick", action="store_true", help="one size, one round")
    options = parser.parse_args(arguments)
    sizes, rounds = (options.size[:1], 1) if options.quick else (options.size, 3)
    print(f"{machine()}; load {os.getloadavg()[0]:.1f} at start")
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            settings = write_settings(Path(folder), size, prompts=32, steps=3)
            found = [{way: update_seconds(settings, way) for way in WAYS} for _ in range(rounds)]
        for text in lines(size, found):
            print(text, flush=True)


def write_settings(folder: Path, size: str, prompts: int, steps: int) -> Path:
    """A file of the plain loop's settings, with models of this size."""
    models = make_models(folder, size)
    rows = [
        (domain, json.loads(text)["prompt"])
        for domain in TEACHERS
        for text in (DEMO / f"{domain}.train.jsonl").read_text().splitlines()[: prompts // len(TEACHERS)]
    ]
    settings = Settings(
        models["student"], {name: models[name] for name in TEACHERS}, [rows] * steps, 48, 1e-6, 1.25, prompts
    )
    path = folder / "settings.json"
    path.write_text(json.dumps(asdict(settings)), encoding="utf-8")
    return path


def update_seconds(settings: Path, way: str) -> float:
    """Median of the updates but the first, which warms up."""
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.step.plain_loop", str(settings)],
        cwd=Path(__file__).resolve().parents[1],
        env={**os.environ, **WAYS[way]},
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    steps = [json.loads(text) for text in ended.stdout.splitlines()][2:]
    return statistics.median(step["update"] for step in steps)


def lines(size: str, rounds: Sequence[dict[str, float]]) -> list[str]:
    """Seconds of an update each way, and how many times the baseline's in the same round."""
    (baseline, *_), found = WAYS, []
    for way in WAYS:
        seconds = Spread.of([each[way] for each in rounds])
        ratio = Spread.of([each[way] / each[baseline] for each in rounds])
        found.append(f"update, {size}, {way}: {seconds.text()} s, {ratio.text()} times {baseline}")
    return found


if __name__ == "__main__":
    main()
