"""A step of the merge against a plain loop: `python -m benchmarks.step [--size demo larger] [--quick]`.

Ours is the training that `protege merge` runs: verl, Ray, vLLM and the shared scorer. The baseline is
`benchmarks/step/plain_loop.py`: transformers and torch alone. Student, prompts, lengths, teachers,
objective, optimizer and threads of a process are the same. They take turns, a whole training each, in one
Ray cluster. Each turn gives a ratio; what is printed is the median, lowest and highest of the turns. The
learning rate is tiny, so that answers stay as long as they are.
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
from typing import Any

from benchmarks.step import ours, plain_loop
from benchmarks.step.models import SIZES, TEACHERS, make_models
from benchmarks.timing import Spread, ratios
from teachers.provenance import machine

WARM_UP = 3
"""Steps of ours that are not counted; one of the plain loop is not."""
ROWS_PER_PASS = 32
"""Of the plain loop: smaller passes stay in the processor's cache."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=main.__doc__)
    parser.add_argument("--size", nargs="+", choices=list(SIZES), default=["demo", "larger"])
    parser.add_argument("--steps", type=int, default=10, help="counted steps of a training [10]")
    parser.add_argument("--turns", type=int, default=3, help="[3]")
    parser.add_argument("--prompts", type=int, default=96, help="of a step [96]")
    parser.add_argument("--estimator", choices=("full", "sampled"), default="full", help="of ours [full]")
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="of the plain loop [1]")
    parser.add_argument("--quick", action="store_true", help="one size, one turn, few steps")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    options = parser.parse_args(arguments)
    if options.quick:
        options.size, options.steps, options.turns = ["demo"], 4, 1
    print(machine())
    print(
        f"{options.prompts} prompts a step, estimator {options.estimator}; {options.steps} steps a turn, "
        f"{options.turns} turns; load {os.getloadavg()[0]:.1f} at start"
    )
    found = {size: measure(size, options) for size in options.size}
    if options.json:
        options.json.write_text(
            json.dumps({"machine": machine(), "sizes": found}, indent=1), encoding="utf-8"
        )


def measure(size: str, options: argparse.Namespace) -> dict[str, Any]:
    """Turns of both at one size; prints them."""
    from merging.state.cluster import Cluster

    turns: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as text:
        place = Path(text)
        models = make_models(place / "models", size)
        settings = {
            "objective": {"reward_scale": 1.25, "estimator": options.estimator},
            "training": {"prompts_per_step": options.prompts, "warmup_steps": 0},
        }
        config = ours.write_config(place, models, options.steps + WARM_UP + 1, settings)
        folder = ours.open_run(config, place / "run")
        plain = _plain_settings(folder, models, options.steps + 1)
        (place / "plain.json").write_text(json.dumps(asdict(plain)), encoding="utf-8")
        with Cluster(folder.config, folder.path) as cluster:
            for turn in range(options.turns):
                baselines = {
                    threads: _run_plain(place / "plain.json", threads) for threads in options.threads
                }
                trained = ours.train(folder, place / f"turn-{turn}", cluster(), WARM_UP)
                turns.append({"ours": asdict(trained), "plain": baselines})
    print_size(size, turns, options.threads)
    return {"turns": turns}


def _plain_settings(folder: Any, models: dict[str, str], steps: int) -> plain_loop.Settings:
    config = folder.config
    return plain_loop.Settings(
        student=models["student"],
        teachers={name: models[name] for name in TEACHERS},
        steps=ours.prompts_of(folder)[:steps],
        max_response_tokens=config.training.max_response_tokens,
        learning_rate=config.training.learning_rate,
        reward_scale=1.25,
        rows_per_pass=ROWS_PER_PASS,
        gradient_clip=config.training.gradient_clip,
        weight_decay=config.training.weight_decay,
    )


def _run_plain(settings: Path, threads: int) -> list[dict[str, float]]:
    """Its line of every step but the first, which warms up."""
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.step.plain_loop", str(settings)],
        cwd=Path(__file__).resolve().parents[2],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return [json.loads(line) for line in ended.stdout.splitlines()][2:]


def print_size(size: str, turns: list[dict[str, Any]], threads: Sequence[int]) -> None:
    """Seconds a step by part, of both, and their ratio."""
    print(f"\n{size}: seconds a step, median of {len(turns)} turns (lowest to highest)")
    own = [turn["ours"] for turn in turns]
    print(f"  {'ours':32}{Spread.of([turn['seconds'] for turn in own]).text()}")
    for part in (*ours.PARTS, "rest"):
        print(f"    {part:30}{Spread.of([_median(turn['steps'], part) for turn in own]).text()}")
    print(f"    {'processor seconds':30}{Spread.of([sum(turn['cpu'].values()) for turn in own]).text()}")
    for name in sorted(own[0]["cpu"], key=lambda name: -own[0]["cpu"][name]):
        print(f"      {name:28}{Spread.of([turn['cpu'].get(name, 0.0) for turn in own]).text()}")
    print(f"    {'start to step 1':30}{Spread.of([turn['seconds_to_first_step'] for turn in own]).text(1)}")
    for count in threads:
        steps = [turn["plain"][count] for turn in turns]
        totals = [statistics.median(_total(step) for step in each) for each in steps]
        print(f"  {f'plain loop, {count} threads':32}{Spread.of(totals).text()}")
        for part in plain_loop.PARTS:
            print(f"    {part:30}{Spread.of([_median(each, part) for each in steps]).text()}")
        print(f"    {'processor seconds':30}{Spread.of([_median(each, 'cpu') for each in steps]).text()}")
        ratio = ratios([(turn["seconds"], total) for turn, total in zip(own, totals, strict=True)])
        print(f"  {'ratio':32}{ratio.text()}")
        cpu = ratios(
            [(sum(turn["cpu"].values()), _median(each, "cpu")) for turn, each in zip(own, steps, strict=True)]
        )
        print(f"  {'ratio of processor seconds':32}{cpu.text()}", flush=True)


def _median(steps: Sequence[dict[str, float]], part: str) -> float:
    return statistics.median(step[part] for step in steps)


def _total(step: dict[str, float]) -> float:
    return sum(step[part] for part in plain_loop.PARTS)


if __name__ == "__main__":
    main()
