"""What a job in the sandbox takes: `python -m benchmarks.sandbox [--quick] [--against CHECKOUT]`.

Small jobs one after another and from four threads, and jobs with long inputs. The baseline is a plain Python
process a job, without any confinement, or the sandbox of another checkout; in turns in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.timing import Spread, ratios, timed
from teachers.provenance import machine

ROOT = Path(__file__).resolve().parents[1]
SANDBOX = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from benchmarks.timing import timed
from eval.sandbox.client import run_tests
small = [{"input": [[1, 2, 3]], "output": 6}]
large = [{"input": [list(range(20000))], "output": 199990000}] * 3

def job(tests):
    assert run_tests("def f(xs): return sum(xs)", "f", tests, 30).status == "passed"

def cost(tests, count, threads):
    with ThreadPoolExecutor(threads) as pool:
        found = timed(lambda: list(pool.map(job, [tests] * count)))
    return [found.seconds / count, max(0.01, found.cpu_seconds) / count]  # the clock's tick

count = int(sys.argv[1])
job(small)
print(json.dumps({"one at a time": cost(small, count, 1), "four threads": cost(small, count, 4),
                  "long inputs": cost(large, max(1, count // 20), 1)}))
"""
PLAIN = "f = sum; assert f([1, 2, 3]) == 6"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sandbox", description=main.__doc__)
    parser.add_argument("--quick", action="store_true", help="100 jobs instead of 400, 3 rounds instead of 5")
    parser.add_argument("--against", type=Path, help="another checkout, whose sandbox is the baseline")
    options = parser.parse_args(arguments)
    count, rounds = (100, 3) if options.quick else (400, 5)
    print(machine())
    for line in lines(count, rounds, options.against):
        print(line, flush=True)


def lines(count: int, rounds: int, against: Path | None) -> list[str]:
    """One a kind of job: milliseconds of a job, jobs a second, and the ratio to the baseline."""
    pairs = []
    for number in range(rounds):
        measures = [lambda: of_sandbox(ROOT, count), lambda: of_baseline(against, count)]
        first, second = (1, 0) if number % 2 else (0, 1)
        found = {first: measures[first](), second: measures[second]()}
        pairs.append((found[0], found[1]))
    return [
        _line(kind, [own[kind] for own, _ in pairs], [other[kind] for _, other in pairs])
        for kind in pairs[0][1]
    ]


def _line(kind: str, own: Sequence[list[float]], other: Sequence[list[float]]) -> str:
    wall, processor = (ratios([(a[i], b[i]) for a, b in zip(own, other, strict=True)]) for i in (0, 1))
    ours, baseline = (Spread.of([1000 * seconds for seconds, _ in costs]) for costs in (own, other))
    return (
        f"{kind}: {ours.text()} ms a job, baseline {baseline.text()} ms, ratio {wall.text()}, "
        f"of processor seconds {processor.text()}; {1000 / ours.median:.0f} jobs a second"
    )


def of_sandbox(checkout: Path, count: int) -> dict[str, list[float]]:
    """Seconds and processor seconds of a job by its kind, in a checkout's sandbox."""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    command = [sys.executable, "-c", SANDBOX, str(count)]
    ended = subprocess.run(
        command, cwd=checkout, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(ended.stdout)


def of_baseline(against: Path | None, count: int) -> dict[str, list[float]]:
    """The same of another checkout, or of small jobs in plain processes."""
    if against is not None:
        return of_sandbox(against, count)
    command = [sys.executable, "-I", "-c", PLAIN]
    found = timed(lambda: [subprocess.run(command, check=True) for _ in range(count)])
    return {"one at a time": [found.seconds / count, found.cpu_seconds / count]}


if __name__ == "__main__":
    main()
