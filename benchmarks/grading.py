"""Our graders against the programs that they build on: `python -m benchmarks.grading [--quick]`.

Programs: HumanEval+'s canonical solutions, half of them spoilt, graded by us and by `evalplus.evaluate`, a
process each, start-up included. Mathematics: made-up answers, graded by us and by plain math-verify in this
process. Verdicts are compared too. The baseline is the other program, in turns in the same run.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.timing import Cost, Spread, in_turns
from eval.grading.maths.grading import grade_math
from eval.records import Completion, Verdict
from teachers.provenance import machine

ROOT = Path(__file__).resolve().parents[1]
PROBLEMS = ROOT.parent / "shared" / "data" / "HumanEvalPlus.jsonl.gz"
SPOILT = "    return None\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.grading", description=main.__doc__)
    parser.add_argument("--problems", type=Path, default=PROBLEMS, help="HumanEval+ as EvalPlus publishes it")
    parser.add_argument("--quick", action="store_true", help="12 programs and 200 answers, 3 rounds")
    parser.add_argument("--grade", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.grade:
        grade_programs(*options.grade)
        return
    programs, answers, rounds = (12, 200, 3) if options.quick else (164, 2000, 3)
    print(machine())
    if options.problems.exists():
        _print_programs(options.problems, programs, 1 if not options.quick else rounds)
    else:
        print(f"programs: not measured, {options.problems} does not exist (--problems)")
    _print_math(answers, rounds)


def line(name: str, pairs: Sequence[tuple[Cost, Cost]], verdicts: str) -> str:
    """Seconds of both, their ratio (ours by the baseline's), and whether they agree."""
    own, other = (Spread.of([pair[place].seconds for pair in pairs]) for place in (0, 1))
    ratio = Spread.of([a.seconds / b.seconds for a, b in pairs])
    cpu = Spread.of([a.cpu_seconds / b.cpu_seconds for a, b in pairs if b.cpu_seconds])
    return (
        f"{name}: ours {own.text()} s, baseline {other.text()} s, ratio {ratio.text()}, "
        f"of processor seconds {cpu.text()}; {verdicts}"
    )


# ---------------------------------------------------------------------------------------- programs


def make_programs(problems: Path, count: int, folder: Path) -> tuple[Path, Path]:
    """Files of the first problems, and of one solution each: the canonical one, every second one spoilt."""
    with gzip.open(problems, "rt", encoding="utf-8") as file:
        rows = [json.loads(text) for text in file][:count]
    kept, samples = folder / "problems.jsonl", folder / "samples.jsonl"
    kept.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    solutions = [
        row["prompt"] + (SPOILT if place % 2 else row["canonical_solution"]) for place, row in enumerate(rows)
    ]
    texts = [
        json.dumps({"task_id": row["task_id"], "solution": solution})
        for row, solution in zip(rows, solutions, strict=True)
    ]
    samples.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return kept, samples


def grade_programs(problems: Path, samples: Path) -> dict[str, bool]:
    """Our verdicts by task; printed as JSON."""
    from configs.blocks.benchmarks import StandardBenchmark
    from eval.benchmarks.standard.humaneval_plus import open_task

    config = StandardBenchmark(kind="standard", name="humaneval_plus", path=problems)
    task = open_task(config)
    solutions = {row["task_id"]: row["solution"] for row in map(json.loads, samples.read_text().splitlines())}
    pairs = [(p, Completion(f"```python\n{solutions[p.id]}\n```", 1, True)) for p in task.problems]
    grades = task.grade(pairs)
    verdicts = {
        problem.id: grade.verdict == Verdict.PASS for (problem, _), grade in zip(pairs, grades, strict=True)
    }
    print(json.dumps(verdicts))
    return verdicts


def _print_programs(problems: Path, count: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        kept, samples = make_programs(problems, count, folder)
        found: dict[str, dict[str, bool]] = {}

        def ours() -> None:
            command = [sys.executable, "-m", "benchmarks.grading", "--grade", str(kept), str(samples)]
            ended = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
            found["ours"] = json.loads(ended.stdout.splitlines()[-1])

        def evalplus() -> None:
            found["evalplus"] = evalplus_verdicts(kept, samples)

        pairs = in_turns(ours, evalplus, rounds)
    same = sum(found["ours"][task] == verdict for task, verdict in found["evalplus"].items())
    print(
        line(f"{count} programs against evalplus.evaluate", pairs, f"{same} of {count} verdicts equal"),
        flush=True,
    )


def evalplus_verdicts(problems: Path, samples: Path) -> dict[str, bool]:
    """EvalPlus's own verdicts by task, on base and plus inputs; its ground truth is computed each time."""
    results = samples.with_name(f"{samples.stem}_eval_results.json")
    results.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as cache:
        subprocess.run(
            [
                *(sys.executable, "-m", "evalplus.evaluate", "--dataset", "humaneval"),
                *("--samples", str(samples), "--parallel", str(os.cpu_count())),
            ],
            env={**os.environ, "XDG_CACHE_HOME": cache, "HUMANEVAL_OVERRIDE_PATH": str(problems)},
            cwd=cache,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    tasks = json.loads(results.read_text())["eval"]
    return {
        task: tried[0]["base_status"] == tried[0]["plus_status"] == "pass" for task, tried in tasks.items()
    }


# ------------------------------------------------------------------------------------- mathematics


def make_answers(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """(expected value, answer) in several forms, right and wrong in turn."""
    chance, found = random.Random(seed), []
    for number in range(count):
        a, b = chance.randint(2, 99), chance.randint(2, 99)
        forms = [
            (f"{a * b}", f"{a * b}"),
            (f"\\frac{{{a}}}{{{b}}}", f"{a}/{b}"),
            (f"{a}\\sqrt{{{b}}}", f"\\sqrt{{{b}}}\\cdot {a}"),
            (f"{(2 * a + 1) / 8}", f"\\frac{{{2 * a + 1}}}{{8}}"),
            (f"x^2+{a}x", f"x(x+{a})"),
        ]
        expected, right = forms[number % len(forms)]
        found.append((expected, right if number % 2 else f"{right}+1"))
    return found


def our_math(answers: Sequence[tuple[str, str]]) -> list[bool]:
    """Our verdicts."""
    return [
        grade_math(Completion(f"It is \\boxed{{{given}}}.", 1, True), expected).verdict == Verdict.PASS
        for expected, given in answers
    ]


def plain_math(answers: Sequence[tuple[str, str]]) -> list[bool]:
    """math-verify's, as its documentation shows it."""
    from math_verify import parse, verify

    return [
        bool(verify(parse(f"$\\boxed{{{expected}}}$"), parse(f"It is $\\boxed{{{given}}}$.")))
        for expected, given in answers
    ]


def _print_math(count: int, rounds: int) -> None:
    answers = make_answers(count)
    own, other = our_math(answers[:10]), plain_math(answers[:10])  # imports, and our helper's start
    pairs = in_turns(
        lambda: own.__setitem__(slice(None), our_math(answers)),
        lambda: other.__setitem__(slice(None), plain_math(answers)),
        rounds,
    )
    same = sum(a == b for a, b in zip(own, other, strict=True))
    print(
        line(f"{count} answers against math-verify", pairs, f"{same} of {count} verdicts equal"), flush=True
    )


if __name__ == "__main__":
    main()
