"""EvalPlus's own evaluator, on the programs that a run exports, gives the run's verdicts and accuracy."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from statistics import fmean

import pytest

from configs.blocks.benchmarks import EvalPlusBenchmark, StandardBenchmark
from eval.benchmarks import open_benchmark
from eval.benchmarks.evalplus_grading import ALONE_TIME_LIMIT_S
from eval.records import Completion, Sample, Verdict
from eval.report.evalplus_samples import write_evalplus_samples
from eval.statistics.compare import summarise
from tests.helpers.benchmark_files import rows_in, standard_file
from tests.helpers.paths import DEMO
from tests.helpers.tiny_model import write_jsonl

PROGRAMS = DEMO / "code.heldout.evalplus.jsonl"
PROBLEMS = 6
OVERRIDES = {"humaneval": "HUMANEVAL_OVERRIDE_PATH", "mbpp": "MBPP_OVERRIDE_PATH"}
EVALUATE = """
import os, sys
from evalplus.evaluate import evaluate
dataset, samples, min_time_limit = sys.argv[1:]
evaluate(dataset, samples, parallel=1, min_time_limit=float(min_time_limit))
sys.stdout.flush()
os._exit(0)  # a thread of EvalPlus's sleeps for another 20 s
"""
VERDICTS = {
    "right": (True, True),
    "right on the base inputs only": (True, False),
    "wrong": (False, False),
    "broken": (False, False),
    "no text": (False, False),
    "right but cut off": (False, False),
}
"""Kinds of answers, with what they deserve: on the base inputs, and on those and the plus inputs."""


def answer(kind, row, completion):
    """An answer of a kind to a problem of the demo, as a model under this mode of completion gives it."""
    canonical, base = row["canonical_solution"], row["base_input"]
    text = {
        "right on the base inputs only": f"({canonical.strip()}) if [xs] in {base!r} else None\n",
        "wrong": "None\n",
        "broken": "I do not know {[(",
        "no text": "\ud800\x00",
    }.get(kind, canonical)
    if completion == "extract":
        text = f"So:\n```python\n{row['prompt']}{text}\n```\nDone."
    return Completion(text, 9, kind != "right but cut off")


def judged(task, answers, mode):
    """Samples of (problem, completion) pairs with our verdicts."""
    counts: dict[str, int] = {}
    samples = []
    for (problem, given), grade in zip(answers, task.grade(answers), strict=True):
        index = counts[problem.id] = counts.get(problem.id, -1) + 1
        place = (task.name, problem.id, mode, index, problem.messages)
        samples.append(Sample(*place, given.text, given.tokens, given.finished, grade.verdict, grade.detail))
    return samples


def both_parts(sample):
    """Our verdict on the base inputs, and on those and the plus inputs."""
    passes = sample.verdict == Verdict.PASS
    return passes or re.match(r"(timeout: )?plus test", sample.detail) is not None, passes


def ask_evalplus(dataset, problems, samples, folder):
    """EvalPlus's verdicts by problem, like `both_parts`, and the two pass@1 that it prints.

    Its cache and its home are in `folder`, and it reaches no network.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EVALPLUS")}
    environment |= {OVERRIDES[dataset]: str(problems), "XDG_CACHE_HOME": str(folder), "HOME": str(folder)}
    environment |= dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
    command = [sys.executable, "-P", "-c", EVALUATE, dataset, str(samples), str(ALONE_TIME_LIMIT_S)]
    ended = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-2000:]
    results = json.loads(samples.with_name(f"{samples.stem}_eval_results.json").read_text())["eval"]
    verdicts = {
        id: [(r["base_status"] == "pass", r["base_status"] == r["plus_status"] == "pass") for r in of_problem]
        for id, of_problem in results.items()
    }
    return verdicts, [float(text) for text in re.findall(r"pass@1:\s*([\d.]+)", ended.stdout)]


def check_agreement(task, samples, dataset, problems, folder, mode):
    """Exports the samples and compares EvalPlus's word on them with ours."""
    write_evalplus_samples(task, samples, folder)
    file = folder / f"{task.name}{'.evalplus' if mode == 'greedy' else '.evalplus.sampled'}.jsonl"
    theirs, printed = ask_evalplus(dataset, problems, file, folder)
    ours: dict[str, list] = {}
    for sample in samples:
        ours.setdefault(sample.problem_id, []).append(both_parts(sample))
    assert theirs == ours
    accuracy = summarise(samples).accuracy
    assert accuracy == pytest.approx(fmean(fmean(plus for _, plus in v) for v in theirs.values()))
    base = fmean(fmean(base for base, _ in v) for v in ours.values())
    assert printed == pytest.approx([base, accuracy], abs=0.00051)  # three digits
    return ours


@pytest.mark.parametrize(("completion", "mode"), [("append", "greedy"), ("extract", "sampled")])
def test_evalplus_judges_the_demos_programs_alike(completion, mode, tmp_path):
    """With `limit`, EvalPlus takes a problem file that is cut to the same length."""
    config = EvalPlusBenchmark(
        kind="evalplus",
        name="own",
        path=PROGRAMS,
        completion=completion,
        limit=PROBLEMS,
        prompt_field="instruction",
    )
    task = open_benchmark(config)
    rows = rows_in(PROGRAMS)[:PROBLEMS]
    kinds = {
        row["task_id"]: [list(VERDICTS)[(i + j) % len(VERDICTS)] for j in range(1 if mode == "greedy" else 2)]
        for i, row in enumerate(rows)
    }
    answers = [
        (problem, answer(kind, row, completion))
        for problem, row in zip(task.problems, rows, strict=True)
        for kind in kinds[problem.id]
    ]
    problems = write_jsonl(tmp_path / "problems.jsonl", rows)
    ours = check_agreement(task, judged(task, answers, mode), "humaneval", problems, tmp_path, mode)
    assert ours == {id: [VERDICTS[kind] for kind in of_problem] for id, of_problem in kinds.items()}


@pytest.mark.parametrize(
    ("name", "dataset", "problems"), [("humaneval_plus", "humaneval", 4), ("mbpp_plus", "mbpp", 4)]
)
def test_evalplus_judges_published_solutions_alike(name, dataset, problems, tmp_path):
    path = standard_file(name)
    task = open_benchmark(StandardBenchmark(kind="standard", name=name, path=path, limit=problems))
    answers = [(problem, Completion(task.canonical(problem), 9, True)) for problem in task.problems]
    wrong = f"def {task.problems[-1].reference['entry_point']}(*args): return 'no'"
    answers[-1] = (task.problems[-1], Completion(wrong, 9, True))
    file = write_jsonl(tmp_path / "problems.jsonl", rows_in(path)[:problems])
    ours = check_agreement(task, judged(task, answers, "greedy"), dataset, file, tmp_path, "greedy")
    assert list(ours.values()) == [[(True, True)]] * (problems - 1) + [[(False, False)]]
