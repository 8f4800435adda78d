"""Every benchmark grades right, wrong, broken and truncated answers, names its source, pins its content."""

from unittest.mock import Mock

import pytest

from common.errors import ConfigError
from configs.blocks import benchmarks
from configs.blocks.benchmarks import EvalPlusBenchmark, MathBenchmark, StandardBenchmark
from eval.benchmarks import KINDS, STANDARD, open_benchmark, self_check
from eval.benchmarks import evalplus_grading as grading
from eval.grading.workers import WorkerLost
from eval.records import Completion, Verdict
from tests.helpers.benchmark_files import FILES, MADE_UP, TWICE, contest_tests, rows_in, standard_file
from tests.helpers.tiny_model import write_jsonl

OWN_MATH = [{"id": "a", "prompt": "1+1", "answer": 2}, {"id": "b", "prompt": "1/2", "answer": "\\frac{1}{2}"}]
OWN_NUMBERS = [{"id": "a", "prompt": "1+1", "answer": 2}, {"id": "b", "prompt": "1/2", "answer": "0.5"}]
OWN_TEXT = [{"prompt": "1+n", "answer": "n+1"}]
OWN_CODE = [
    {
        "task_id": f"HumanEval/{i}",
        "prompt": "def f(xs):\n    return ",
        "instruction": f"add {i} to the sum of xs",
        "entry_point": "f",
        "canonical_solution": f"sum(xs) + {i}\n",
        "base_input": [[[1, 2]], [[]]],
        "plus_input": [[[5]]],
        "atol": 0,
    }
    for i in range(2)
]
IS_CODE = ("humaneval_plus", "mbpp_plus", "append", "extract")
ENTRIES = [*STANDARD, "math", "number", "append", "extract"]


def own_code(path, completion="append", **changes):
    return EvalPlusBenchmark(
        kind="evalplus", name="own", path=path, prompt_field="instruction", completion=completion, **changes
    )


def config_of(entry, folder, limit=2, change=None):
    """Config of an entry of ENTRIES over at most `limit` problems; `change` edits the first row."""
    own = {"math": OWN_MATH, "number": OWN_NUMBERS, "append": OWN_CODE, "extract": OWN_CODE}
    rows = (own | MADE_UP).get(entry)
    rows = [dict(row) for row in (rows or rows_in(standard_file(entry))[:limit])]
    if change:
        rows[0].update(change)
    path = write_jsonl(folder / f"{entry}.jsonl", rows)
    if entry in STANDARD:
        return StandardBenchmark(kind="standard", name=entry, path=path)
    if entry == "math":
        return MathBenchmark(kind="math", name="own", path=path, suffix=" Box it.")
    if entry == "number":
        return MathBenchmark(kind="math", name="own", path=path, grader="number")
    return own_code(path, entry)


def finished(text):
    return Completion(text, 9, True)


def test_every_declared_benchmark_is_implemented():
    assert set(STANDARD) == set(benchmarks.BENCHMARKS) == set(FILES) | set(MADE_UP)
    assert set(KINDS) == {"math", "evalplus", "graded"}


@pytest.mark.parametrize("entry", ENTRIES)
def test_right_wrong_broken_and_truncated(entry, tmp_path):
    task = open_benchmark(config_of(entry, tmp_path))
    problem = task.problems[0]
    right = task.canonical(problem) if task.canonical else f"```python\n{TWICE}```"
    wrong = "\\boxed{123456789}"
    broken = "I do not know {[("
    if entry == "livecodebench_v6":
        wrong = f"```python\n{TWICE.replace('sum', 'len')}```"
    elif entry in IS_CODE:
        name = problem.reference["entry_point"]
        wrong = "None\n" if entry == "append" else f"```python\ndef {name}(*args): return 'no'\n```"
    grades = task.grade(
        [
            (problem, finished(right)),
            (problem, finished(wrong)),
            (problem, finished(broken)),
            (problem, Completion(right, 9, False)),
            (task.problems[1], finished(right)),
        ]
    )
    assert [grade.verdict for grade in grades] == ["pass", "fail", "fail", "fail", "fail"], grades
    assert grades[3].detail == "truncated"


@pytest.mark.parametrize("entry", ENTRIES)
def test_source_and_prompt(entry, tmp_path):
    config = config_of(entry, tmp_path)
    task = open_benchmark(config)
    assert task.name == config.name
    assert str(config.path) in task.source and "licence" in task.source and task.digest[:12] in task.source
    assert all(m["role"] == "user" for p in task.problems for m in p.messages)
    assert len({problem.id for problem in task.problems}) == len(task.problems) == 2


@pytest.mark.parametrize("entry", ENTRIES)
def test_digest_follows_the_content(entry, tmp_path):
    field = {"append": "instruction", "extract": "instruction", "gsm8k": "question"}.get(entry, "problem")
    if entry in ("math", "number", "humaneval_plus", "mbpp_plus"):
        field = "prompt"
    answer_field = "plus_input" if entry in IS_CODE else "answer"
    answer = [[[7]]] if entry in IS_CODE else "#### 7" if entry == "gsm8k" else 7
    if entry == "livecodebench_v6":
        field, answer_field = "question_content", "public_test_cases"
        answer = contest_tests(("[1]\n3", "[4, 4]"), kind="functional")
    (tmp_path / "a").mkdir()
    original = open_benchmark(config_of(entry, tmp_path)).digest
    assert open_benchmark(config_of(entry, tmp_path / "a")).digest == original
    for change in ({field: "another text"}, {answer_field: answer}):
        assert open_benchmark(config_of(entry, tmp_path, change=change)).digest != original


def test_digest_follows_the_way_of_grading(tmp_path):
    path = write_jsonl(tmp_path / "c.jsonl", OWN_CODE)
    assert open_benchmark(own_code(path, "append")).digest != open_benchmark(own_code(path, "extract")).digest


@pytest.mark.parametrize("name", ["aime24", "aime25", "hmmt25_feb"])
def test_published_math_answers_pass_their_own_grader(name):
    task = open_benchmark(StandardBenchmark(kind="standard", name=name, path=standard_file(name)))
    assert len(task.problems) == 30
    assert self_check(task) == 1.0
    assert (
        task.problems[0]
        .messages[0]["content"]
        .endswith("\nPlease reason step by step, and put your final answer within \\boxed{}.")
    )


@pytest.mark.parametrize("name", ["humaneval_plus", "mbpp_plus"])
def test_published_programs_pass_their_own_grader(name):
    config = StandardBenchmark(kind="standard", name=name, path=standard_file(name), limit=4)
    assert self_check(open_benchmark(config)) == 1.0


def test_self_check_is_the_ceiling(tmp_path):
    rows = [OWN_CODE[0], {**OWN_CODE[1], "canonical_solution": "missing_name\n"}]
    task = open_benchmark(own_code(write_jsonl(tmp_path / "c.jsonl", rows)))
    assert self_check(task) == 0.5


def test_a_problem_whose_canonical_solution_does_not_run_is_unscored(tmp_path):
    path = write_jsonl(tmp_path / "c.jsonl", [{**OWN_CODE[0], "canonical_solution": "missing_name\n"}])
    task = open_benchmark(own_code(path))
    (grade,) = task.grade([(task.problems[0], finished("sum(xs)"))])
    assert grade.verdict == Verdict.UNSCORED and "NameError" in grade.detail


def test_plus_inputs_count(tmp_path):
    task = open_benchmark(own_code(write_jsonl(tmp_path / "c.jsonl", OWN_CODE)))
    answers = ["sum(xs)\n", "3 if xs else 0\n"]  # the second is right on the base inputs only
    grades = task.grade([(task.problems[0], finished(text)) for text in answers])
    assert [grade.verdict for grade in grades] == ["pass", "fail"]
    assert grades[1].detail == "plus test 0 failed"


def test_equal_programs_run_once(tmp_path, monkeypatch):
    task = open_benchmark(own_code(write_jsonl(tmp_path / "c.jsonl", OWN_CODE), "extract"))
    asked = []
    ask = grading.Worker.ask

    def counted(worker, question, timeout_s):
        asked.append((question["id"], question["solution"]))
        return ask(worker, question, timeout_s)

    monkeypatch.setattr(grading.Worker, "ask", counted)
    program = "```python\ndef f(xs): return sum(xs)\n```"
    texts = [program, program, f"Here:\n{program}"]
    grades = task.grade([(task.problems[0], finished(text)) for text in texts])
    assert [grade.verdict for grade in grades] == ["pass"] * 3
    assert asked == [("HumanEval/0", "def f(xs): return sum(xs)\n")]


def test_an_endless_program_fails_and_a_confined_one_cannot_write(tmp_path):
    task = open_benchmark(own_code(write_jsonl(tmp_path / "c.jsonl", OWN_CODE), "extract"))
    target = tmp_path / "written"
    loop = "```python\ndef f(xs):\n    while True: pass\n```"
    write = f"```python\nimport io\ndef f(xs):\n    io.open({str(target)!r}, 'w')\n    return sum(xs)\n```"
    grades = task.grade([(task.problems[0], finished(loop)), (task.problems[0], finished(write))])
    assert [grade.verdict for grade in grades] == ["fail", "fail"]
    assert grades[0].detail.startswith("timeout")
    assert not target.exists()


PASS = {"status": "pass", "detail": "", "seconds": 0.1}
SLOW = {"status": "timeout", "detail": "base tests did not end", "seconds": 9.0}
LOST = WorkerLost("gone")


@pytest.mark.parametrize(
    ("replies", "verdict", "asked"),
    [
        ([SLOW, PASS], "pass", 2),  # the machine was busy, the program is right
        ([SLOW, SLOW, PASS], "fail", 3),  # the canonical solution is fast enough: the program is slow
        ([SLOW, SLOW, SLOW], "unscored", 3),  # nothing runs in time here
        ([LOST, PASS], "pass", 2),
        ([LOST, LOST, PASS], "unscored", 3),
    ],
)
def test_a_slow_machine_is_no_wrong_answer(tmp_path, monkeypatch, replies, verdict, asked):
    task = open_benchmark(own_code(write_jsonl(tmp_path / "c.jsonl", OWN_CODE)))
    worker = Mock(side_effect=replies)
    monkeypatch.setattr(grading.Worker, "ask", worker)
    (grade,) = task.grade([(task.problems[0], finished("sum(xs)"))])
    assert grade.verdict == verdict and worker.call_count == asked


@pytest.mark.parametrize(
    ("rows", "config", "message"),
    [
        (None, MathBenchmark(kind="math", name="m", path="absent.jsonl"), "no such file"),
        ([{"prompt": "x"}], MathBenchmark(kind="math", name="m", path="f.jsonl"), "'answer'"),
        ([], MathBenchmark(kind="math", name="m", path="f.jsonl"), "no problems"),
        ([["x"]], MathBenchmark(kind="math", name="m", path="f.jsonl"), "f.jsonl:1: "),
        (OWN_TEXT, MathBenchmark(kind="math", name="m", path="f.jsonl", grader="number"), "is no number"),
        ([OWN_MATH[0]] * 2, MathBenchmark(kind="math", name="m", path="f.jsonl"), "ids must be unique"),
        (OWN_CODE, own_code("f.jsonl").model_copy(update={"prompt_field": "question"}), "'question'"),
        ([{**OWN_CODE[0], "atol": None}], own_code("f.jsonl"), "'atol'"),
        (OWN_MATH, StandardBenchmark(kind="standard", name="aime24", path="f.jsonl"), "'problem'"),
    ],
)
def test_refusals_name_the_file_and_the_field(tmp_path, rows, config, message):
    path = tmp_path / config.path.name
    if rows is not None:
        write_jsonl(path, rows)
    with pytest.raises(ConfigError, match=message) as refusal:
        open_benchmark(config.model_copy(update={"path": path}))
    assert config.name in str(refusal.value)


def test_the_limit_takes_the_first_problems(tmp_path):
    path = write_jsonl(tmp_path / "m.jsonl", OWN_MATH)
    task = open_benchmark(MathBenchmark(kind="math", name="m", path=path, limit=1))
    assert [problem.id for problem in task.problems] == ["a"]


WRONG_TYPES = (5, 1.5, True, [1], {"a": 1}, [{"a": 1}])


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("value", WRONG_TYPES, ids=repr)
def test_a_problem_that_is_no_text_is_refused(entry, value, tmp_path):
    field = {"append": "instruction", "extract": "instruction", "gsm8k": "question"}.get(entry, "problem")
    if entry in ("math", "number", "humaneval_plus", "mbpp_plus"):
        field = "prompt"
    field = "question_content" if entry == "livecodebench_v6" else field
    with pytest.raises(ConfigError, match=rf"problem 1: '{field}' must be a text, got "):
        open_benchmark(config_of(entry, tmp_path, change={field: value}))


FIELDS = ("task_id", "prompt", "entry_point", "canonical_solution", "base_input", "plus_input")


@pytest.mark.parametrize("field", FIELDS)
def test_a_program_that_is_of_another_type_is_refused(field, tmp_path):
    with pytest.raises(ConfigError, match=rf"problem 1: '{field}' must be a (text|list), got"):
        open_benchmark(config_of("append", tmp_path, change={field: 7}))
