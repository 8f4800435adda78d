"""A report agrees with numbers computed anew from the samples, and no longer once either is changed.

The run is evaluated and reported by the real stages; only the models' answers are made up.
"""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from configs.load import load_config
from eval.benchmarks import open_benchmark
from eval.records import Completion
from merging import run as run_module
from merging.state.run_folder import RESOLVED, RunFolder
from tests.helpers.paths import DEMO
from tests.helpers.recompute import SCORE, mismatches
from tests.helpers.tiny_model import config_dict, write_config, write_json, write_jsonl, write_model

GREEDY, SAMPLED = "code_own.evalplus.jsonl", "code_own.evalplus.sampled.jsonl"
FOUND = SimpleNamespace(with_folders=lambda config: config)
"""Of a preflight only this is needed here."""


class MadeUpAnswers:
    """Stands for the generator: some right answers, some wrong, some cut off."""

    def __init__(self, canonical, **_arguments):
        self.canonical = canonical

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def generate(self, model, problems, mode, n, temperature, seed, max_tokens, on_progress):
        random_number = random.Random(f"{model.name} {mode}").random
        return {
            problem.id: [
                Completion(
                    self.canonical[problem.id] if random_number() < 0.6 else "None\n",
                    1 + int(random_number() * max_tokens),
                    random_number() < 0.8,
                )
                for _ in range(n)
            ]
            for problem in problems
        }


def report_run(folder: Path, *overrides: str) -> Path:
    """Evaluates and reports the run below `folder`; returns its folder.

    The domain math has two benchmarks, which are pooled; the last problem of code cannot be judged, as its
    own solution does not run.
    """
    loaded = load_config(folder / "config.yaml", overrides)
    opened = RunFolder.open(folder / "run", loaded, FOUND)
    counts = {"prompts": {"math": 3}, "rows": {"math": 6}, "dropped": {}}
    write_json(opened.path / "prompts" / "counts.json", counts)
    teachers = [
        run_module.Teacher(name, str(folder / f"{name}_expert"), "0" * 64, None) for name in ("math", "code")
    ]
    tasks = [open_benchmark(b) for domain in loaded.config.domains.values() for b in domain.benchmarks]
    canonical = {problem.id: task.canonical(problem) for task in tasks for problem in task.problems}
    samples = run_module.evaluate_models(
        opened, teachers, make_generator=lambda **arguments: MadeUpAnswers(canonical, **arguments)
    )
    run_module.report(opened, teachers, samples)
    return opened.path


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("recompute")
    config = config_dict(folder) | {"registry": "home", "evaluation": {"samples_per_problem": 3}}
    rows = [json.loads(line) for line in (DEMO / "code.heldout.evalplus.jsonl").read_text().splitlines()[:5]]
    rows[-1]["canonical_solution"] = "missing_name\n"
    write_jsonl(folder / "code_own.jsonl", rows)
    for name, count in (("sums", 5), ("more", 3)):
        sums = [{"id": f"{name}{i}", "prompt": f"{i}+1", "answer": i + 1} for i in range(count)]
        write_jsonl(folder / f"{name}.jsonl", sums)
    config["domains"]["math"]["benchmarks"] = [
        {"kind": "math", "name": name, "path": f"{name}.jsonl"} for name in ("sums", "more")
    ]
    config["domains"]["code"]["benchmarks"] = [
        {"kind": "evalplus", "name": "code_own", "path": "code_own.jsonl", "completion": "append"}
    ]
    write_config(folder, config)
    for place, value in (("student", 0.8), ("baselines/average", 0.9)):
        write_model(folder / "run" / place, value=value)
    (folder / "run" / "prompts").mkdir()
    return folder


@pytest.fixture(scope="module")
def run(home) -> Path:
    return report_run(home)


def test_every_number_is_that_of_the_samples(run):
    assert mismatches(run) == []
    report = json.loads((run / "report.json").read_text())
    assert "domain:math" in report["benchmarks"] and "code_own@greedy" in report["benchmarks"]
    scores = [model["benchmarks"]["code_own"] for model in report["models"].values()]
    assert len(scores) == 5 and all(0 < score["accuracy"] < 1 for score in scores)
    assert all(score["unscored"] > 0 and 0 < score["finish_rate"] < 1 for score in scores)
    assert len(report["comparisons"]) == 4 * len(report["benchmarks"])


def changed(run: Path, target: Path, file: str, change) -> Path:
    """A copy of the run in which `change` was applied to the text of a file."""
    for name in ("samples", "report.json"):
        (shutil.copytree if (run / name).is_dir() else shutil.copy)(run / name, target / name)
    (target / file).write_text(change((target / file).read_text()))
    return target


@pytest.mark.parametrize("model", ["student", "code-teacher", "average"])
def test_one_flipped_verdict_is_noticed(run, tmp_path, model):
    def flip(text: str) -> str:
        assert '"verdict": "pass"' in text
        return text.replace('"verdict": "pass"', '"verdict": "fail"', 1)

    found = mismatches(changed(run, tmp_path, f"samples/{model}/code_own.jsonl", flip))
    places = {line.partition(":")[0] for line in found}
    assert any(f"'{model}'" in place and "'accuracy'" in place for place in places), found
    assert any("compared difference" in place for place in places), found


@pytest.mark.parametrize("field", SCORE)
def test_another_number_in_the_report_is_noticed(run, tmp_path, field):
    def raised(text: str) -> str:
        report = json.loads(text)
        report["models"]["base"]["benchmarks"]["more"][field] += 1
        return json.dumps(report)

    (line,) = mismatches(changed(run, tmp_path, "report.json", raised))
    assert line.startswith(f"('base', 'more', '{field}')")


def test_a_comparison_that_is_left_out_is_noticed(run, tmp_path):
    def shortened(text: str) -> str:
        report = json.loads(text)
        del report["comparisons"][0]
        return json.dumps(report)

    assert len(mismatches(changed(run, tmp_path, "report.json", shortened))) == 2  # difference and n


def test_programs_stand_beside_the_samples_in_their_order(run):
    prompts = {
        row["task_id"]: row["prompt"]
        for row in map(json.loads, (run.parent / "code_own.jsonl").read_text().splitlines())
    }
    for model in ("base", "math-teacher", "code-teacher", "student", "average"):
        folder = run / "samples" / model
        samples = [json.loads(line) for line in (folder / "code_own.jsonl").read_text().splitlines()]
        for mode, name, count in (("greedy", GREEDY, 5), ("sampled", SAMPLED, 15)):
            lines = [json.loads(line) for line in (folder / name).read_text().splitlines()]
            answers = [sample for sample in samples if sample["mode"] == mode]
            assert len(lines) == count
            for line, answer in zip(lines, answers, strict=True):
                program = prompts[answer["problem_id"]] + answer["completion"]
                assert line["task_id"] == answer["problem_id"] and line.keys() == {"task_id", "solution"}
                assert answer["finished"] == (line["solution"] == program)
                assert answer["finished"] or line["solution"].startswith("# The answer was cut off")
        assert not list(folder.glob("sums.evalplus*"))


def test_programs_of_an_earlier_evaluation_do_not_stay(run, home, tmp_path):
    shutil.copytree(home, tmp_path / "home")
    (tmp_path / "home" / "run" / RESOLVED).unlink()  # it holds the paths of what was copied
    again = report_run(tmp_path / "home", "evaluation.greedy=false")
    assert not (again / "samples" / "student" / GREEDY).exists()
    assert (again / "samples" / "student" / SAMPLED).exists()
    assert mismatches(again) == []
