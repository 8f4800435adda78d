"""Benchmarks of kind `graded`: the user's own file, or generated problems, with every grader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from configs.blocks.benchmarks import GradedBenchmark
from eval.benchmarks import open_benchmark
from eval.grading.answer_graders import GRADERS
from eval.records import Completion, Verdict
from tests.helpers.messages import refuses

SUM = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}
JUDGE = "def reward(completion, answer, finished):\n    return {'yes': 1.0, 'half': 0.5}.get(completion, 0)\n"


def config(folder: Path, grader: Any, answer: Any = "yes", **values: Any) -> GradedBenchmark:
    """Two problems in a file with this expected answer."""
    path = folder / "problems.jsonl"
    rows = [{"prompt": f"problem {i}", "answer": answer} for i in range(2)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "judge.py").write_text(JUDGE)
    values = {"path": path, **values}
    return TypeAdapter(GradedBenchmark).validate_python(
        {"kind": "graded", "name": "own", "grader": grader, **values}
    )


def graders(folder: Path) -> dict[str, tuple[Any, Any, str, str]]:
    """Grader, expected answer, right and wrong text of each kind that reads a file."""
    python = {"kind": "python", "path": folder / "judge.py"}
    return {
        "exact": ("exact", "yes", "yes", "no"),
        "number": ("number", 82, "it is 82.", "it is 28"),
        "regex": ({"kind": "regex", "pattern": r"#(\w+)", "group": 1}, "yes", "so #yes", "so #no"),
        "json_schema": (
            {"kind": "json_schema", "schema": SUM, "compare_answer": True},
            {"sum": 3}, '```json\n{"sum": 3}\n```', '```json\n{"sum": 4}\n```',
        ),
        "python": (python, "yes", "yes", "no"),
    }  # fmt: skip


def verdict(task, text: str, finished: bool = True, problem: int = 0) -> Verdict:
    (grade,) = task.grade([(task.problems[problem], Completion(text, 5, finished))])
    return grade.verdict


def test_every_grader_has_a_case_here(tmp_path):
    assert set(GRADERS) == {*graders(tmp_path), "reasoning_gym"}


@pytest.mark.parametrize("kind", ["exact", "number", "regex", "json_schema", "python"])
def test_right_wrong_broken_and_truncated(kind, tmp_path):
    grader, answer, right, wrong = graders(tmp_path)[kind]
    task = open_benchmark(config(tmp_path, grader, answer))
    assert verdict(task, right) == Verdict.PASS
    assert verdict(task, wrong) == Verdict.FAIL
    assert verdict(task, "\x00{[(") == Verdict.FAIL
    if kind != "python":  # a user's function says itself what an unfinished answer is worth
        assert verdict(task, right, finished=False) == Verdict.FAIL
    if task.canonical is not None:
        assert verdict(task, task.canonical(task.problems[0])) == Verdict.PASS


@pytest.fixture
def generated():
    pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed (requirements/gym.txt)")

    def generated(**values: Any):
        given = {"task": "chain_sum", "size": 4, "seed": 1} | values.pop("generate", {})
        return TypeAdapter(GradedBenchmark).validate_python(
            {
                "kind": "graded", "name": "gym", "generate": given,
                "grader": {"kind": "reasoning_gym", "task": "chain_sum"}, **values,
            }
        )  # fmt: skip

    return generated


def test_generated_problems_are_judged_by_their_verifier(generated):
    task = open_benchmark(generated())
    assert len(task.problems) == 4 and "reasoning-gym's task chain_sum, size 4, seed 1" in task.source
    right = task.canonical(task.problems[0])
    assert verdict(task, right) == Verdict.PASS
    assert verdict(task, "-99999") == Verdict.FAIL
    assert verdict(task, right, finished=False) == Verdict.FAIL
    assert verdict(task, "") == Verdict.FAIL


def test_each_option_of_generated_problems_changes_something(generated):
    usual = open_benchmark(generated())
    prompts = [problem.messages for problem in usual.problems]
    assert [p.messages for p in open_benchmark(generated()).problems] == prompts
    for values in (
        {"generate": {"seed": 2}}, {"generate": {"size": 3}}, {"generate": {"parameters": {"max_terms": 2}}},
        {"limit": 2}, {"suffix": " Answer alone."},
    ):  # fmt: skip
        other = open_benchmark(generated(**values))
        assert [p.messages for p in other.problems] != prompts and other.digest != usual.digest


def test_the_pass_mark_decides_partial_credit(tmp_path):
    python = {"kind": "python", "path": tmp_path / "judge.py"}
    strict, mild = (open_benchmark(config(tmp_path, python, pass_mark=mark)) for mark in (1.0, 0.5))
    assert (verdict(strict, "half"), verdict(mild, "half")) == (Verdict.FAIL, Verdict.PASS)
    assert strict.digest != mild.digest


def test_a_function_that_fails_leaves_the_answer_unscored(tmp_path):
    task = open_benchmark(config(tmp_path, {"kind": "python", "path": tmp_path / "judge.py"}))
    broken = JUDGE.replace("return {", "assert completion != 'bad'; return {")
    own = config(tmp_path, {"kind": "python", "path": tmp_path / "judge.py"})
    (tmp_path / "judge.py").write_text(broken)
    found = open_benchmark(own)
    assert verdict(found, "bad") == Verdict.UNSCORED
    assert verdict(found, "yes") == Verdict.PASS
    assert found.digest != task.digest  # another judge


def test_fields_suffix_limit_and_ids(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps({"q": f"q{i}", "a": f"a{i}", "id": f"n{i}"}) + "\n" for i in range(3)))
    fields = {"problem_field": "q", "answer_field": "a"}
    task = open_benchmark(config(tmp_path, "exact", path=path, suffix="!", limit=2, **fields))
    assert [(p.id, p.messages[0]["content"]) for p in task.problems] == [("n0", "q0!"), ("n1", "q1!")]
    assert verdict(task, "a1", problem=1) == Verdict.PASS


@pytest.mark.parametrize(
    "values, facts",
    [
        ({"path": None}, ("one", "`path`", "`generate`")),
        ({"generate": {"task": "chain_sum"}}, ("one", "`path`", "`generate`")),
        ({"path": None, "generate": {"task": "x"}, "problem_field": "q"}, ("problem_field", "`path`")),
        ({"path": None, "generate": {"task": "x"}}, ("grader exact", "generated")),
        ({"pass_mark": 0.5}, ("pass_mark", "grader exact")),
    ],
)
def test_options_that_do_not_go_together_are_refused(tmp_path, values, facts):
    with refuses(*facts, error=ValidationError):
        config(tmp_path, "exact", **values)


@pytest.mark.parametrize(
    "grader, answer, source, facts",
    [
        ("number", "yes", JUDGE, ("'yes'", "number", "grader: exact")),
        ({"kind": "json_schema", "schema": SUM, "compare_answer": True}, {"sum": "3"}, JUDGE, ("not valid",)),
        ({"kind": "reasoning_gym", "task": "chain_sum"}, "3", JUDGE, ("no entry", "'chain_sum'")),
        ({"kind": "python"}, "yes", "def other(): pass", ("'reward'", "functions there: other")),
        ({"kind": "python"}, "yes", "import no_such", ("no_such",)),
        ({"kind": "python"}, "yes", "def reward(a, b, c):\n    return 7\n", ("7", "0 to 1")),
        ({"kind": "python"}, "yes", "def reward(a):\n    return 1\n", ("positional arguments",)),
        ({"kind": "python"}, "yes", "def reward(:\n", ("SyntaxError",)),
    ],
)
def test_a_grader_that_cannot_judge_is_refused_before_anything_is_asked(
    tmp_path, grader, answer, source, facts
):
    if isinstance(grader, dict) and grader["kind"] == "python":
        grader = {**grader, "path": tmp_path / "judge.py"}
    own = config(tmp_path, grader, answer)
    (tmp_path / "judge.py").write_text(source)
    with refuses("benchmark own", *facts):
        open_benchmark(own)
