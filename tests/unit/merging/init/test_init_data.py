"""What `protege init` tells from rows: columns, reward, labels, sides of a split; the sizes it chooses."""

from __future__ import annotations

import hashlib
import json

import pytest

from common.errors import ConfigError
from merging.init import blocks as init_blocks
from merging.init import data
from merging.init.data import Columns
from merging.init.sizes import Student, choose, lengths
from tests.helpers.messages import refuses

GUESSED = Columns("prompt", "answer", True)
TESTS = {"entry_point": "f", "tests": []}


# ------------------------------------------------------------------------------------------ columns


@pytest.mark.parametrize(
    ("row", "prompt", "answer"),
    [
        ({"prompt": "a", "answer": "b"}, "prompt", "answer"),
        ({"id": 1, "question": "a", "solution": "b"}, "question", "solution"),
        ({"answer": "b", "problem": "a", "solution": "long"}, "problem", "answer"),
        ({"messages": [{"role": "user", "content": "a"}]}, "messages", None),
        ({"prompt": "a", "reward_model": {"ground_truth": 3}}, "prompt", "reward_model.ground_truth"),
        ({"prompt": "", "question": "a", "answer": None, "target": 0}, "question", "target"),
        ({"input": "a", "output": "b"}, "input", "output"),
    ],
)
def test_columns_are_told_by_name_where_every_row_has_them(row, prompt, answer):
    found = data.find_columns([row], "f", None, "--columns d")
    assert (found.prompt, found.answer, found.guessed) == (prompt, answer, True)


def test_a_column_that_one_row_lacks_is_not_taken():
    rows = [{"prompt": "a", "question": "q", "answer": 1}, {"question": "q", "target": 2, "answer": ""}]
    assert data.find_columns(rows, "f", None, "--columns d").prompt == "question"
    assert data.find_columns(rows, "f", None, "--columns d").answer is None


@pytest.mark.parametrize(
    ("given", "prompt", "answer"),
    [("b", "b", "answer"), ("b,a", "b", "a"), ("b,", "b", None), (" b , a ", "b", "a")],
)
def test_columns_that_are_named(given, prompt, answer):
    found = data.find_columns([{"prompt": "x", "answer": "y", "a": 1, "b": "t"}], "f", given, "--columns d")
    assert (found.prompt, found.answer, found.guessed) == (prompt, answer, False)


@pytest.mark.parametrize(
    ("row", "given", "expected"),
    [
        ({"x": 1, "y": {"z": 2}}, None, "f: no column looks like the prompt in every row; --columns "
         "d=PROMPT,ANSWER names it; columns there: x, y, y.z"),
        ({"question": "a"}, "qestion", "--columns d=qestion: f has no column 'qestion'; did you mean "
         "'question'? columns there: question"),
        ({"question": "a"}, ",a", "--columns d=,a: f has no column 'a'; "),
        ({"question": "a"}, ",", "--columns d=,: expected PROMPT or PROMPT,ANSWER; columns there: question"),
    ],
)  # fmt: skip
def test_columns_that_are_not_there(row, given, expected):
    with pytest.raises(ConfigError) as caught:
        data.find_columns([row], "f", given, "--columns d")
    (problem,) = caught.value.problems
    assert problem.startswith(expected)


# ------------------------------------------------------------------------------------------- reward


@pytest.mark.parametrize(
    ("answers", "prompt", "expected"),
    [
        (["12", 3, "-1,000.5"], "1+1", "number"),
        (["12"], "1+1, in \\boxed{}", "math"),
        (["12", "\\frac{1}{2}"], "1+1", "math"),
        (["x^2"], "1+1", "math"),
        (["yes", "no"], "1+1", "exact"),
        ([TESTS], "1+1", "code"),
        ([TESTS, "12"], "1+1", None),
        ([{"other": 1}], "1+1", None),
        ([True], "1+1", None),
        (["word " * 40], "1+1", None),
    ],
)
def test_the_reward_is_told_from_all_answers(answers, prompt, expected):
    rows = [{"prompt": prompt, "answer": answer} for answer in answers]
    found = data.guess_reward(rows, GUESSED)
    assert (found and found[0]) == expected


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([{"domain": "math"}, {"domain": "code"}], "domain"),
        ([{"a": "math", "domain": "code"}], "domain"),
        ([{"domain": "algebra", "extra": {"teacher": "math"}}], "extra.teacher"),
        ([{"topic": "math"}, {"topic": None}, {"x": 1}], "topic"),
        ([{"topic": "math"}, {"topic": "physics"}], None),
        ([{"topic": ""}], None),
    ],
)
def test_the_labels_column_names_domains_and_nothing_else(rows, expected):
    assert data.find_label_column(rows, ("math", "code")) == expected


# ----------------------------------------------------------------------------------------- held out


def rows_of(count):
    return [{"prompt": f"question {i}", "answer": i} for i in range(count)]


def test_the_side_of_a_prompt_is_its_hash():
    digest = hashlib.sha256(b"what is 1 + 1?").hexdigest()
    assert data.position("  What is\n1 + 1? ") == int(digest[:13], 16) / 2**52
    assert 0 <= data.position("") < 1


def test_a_split_is_whole_disjoint_and_in_order():
    rows = rows_of(2000)
    trained, held = data.split(rows, "prompt", 0.1)
    assert sorted([*trained, *held], key=lambda row: row["answer"]) == rows
    assert [row["answer"] for row in held] == sorted(row["answer"] for row in held)
    assert 150 < len(held) < 250  # 200 expected, standard deviation 13


def test_the_same_prompt_falls_on_one_side():
    rows = [*rows_of(200), *({"prompt": f"QUESTION  {i}", "answer": -i} for i in range(200))]
    trained, held = data.split(rows, "prompt", 0.3)
    assert not {data.prompt_key(row["prompt"]) for row in trained} & {
        data.prompt_key(row["prompt"]) for row in held
    }
    chat = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "question 7"}]
    assert data.prompt_key(chat) == data.prompt_key("Question 7")


def test_more_rows_or_a_larger_share_move_nothing_back():
    few = {row["prompt"] for row in data.split(rows_of(100), "prompt", 0.1)[1]}
    more = {row["prompt"] for row in data.split(rows_of(1000)[::-1], "prompt", 0.1)[1]}
    larger = {row["prompt"] for row in data.split(rows_of(100), "prompt", 0.3)[1]}
    assert few and few == {p for p in more if int(p.split()[1]) < 100} and few < larger


def test_held_out_rows_become_problems_of_a_benchmark():
    columns = Columns("q.text", "a", False)
    rows = [
        {"id": 1, "q": {"text": "one"}, "a": 1, "level": "easy"},
        {"id": 1, "q": {"text": "One"}, "a": 9},
        {"id": 1, "q": {"text": "two"}, "a": 2},
    ]
    first, second = data.problems_of(rows, columns)
    assert first == {"q": {"text": "one"}, "a": 1, "level": "easy", "prompt": "one", "answer": 1}
    assert second["prompt"] == "two" and "id" not in second
    assert "id" in data.problems_of(rows[:1], columns)[0]


def test_rows_are_written_as_they_are():
    rows = [{"a": "ünï\u2028", "b": [1, None, 2.5]}, {"a": "\ud800"}]
    text = data.as_jsonl(rows, "f")
    assert [json.loads(line) for line in text.encode("utf-8").split(b"\n") if line] == rows
    with refuses("f, row 2", "JSON"):
        data.as_jsonl([{}, {"a": b"x"}], "f")


@pytest.mark.parametrize(
    ("reward", "kinds", "expected"),
    [
        ("math", ("math",), {"kind": "math", "grader": "boxed"}),
        ("number", ("math",), {"kind": "math", "grader": "number"}),
        ("exact", ("math",), None),
        ("exact", ("math", "graded"), {"kind": "graded", "grader": "exact"}),
        ({"kind": "regex", "pattern": "a"}, ("math",), None),
        (
            {"kind": "regex", "pattern": "a"},
            ("graded",),
            {"kind": "graded", "grader": {"kind": "regex", "pattern": "a"}},
        ),
        ("code", ("math", "evalplus", "graded"), None),
    ],
)
def test_a_benchmark_judges_as_the_reward_does_or_there_is_none(reward, kinds, expected, monkeypatch):
    monkeypatch.setattr(init_blocks, "BENCHMARKS", dict.fromkeys(kinds))
    assert init_blocks.judged_as(reward) == expected


# -------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("device", "longest", "context", "expected"),
    [
        ("cpu", None, None, (512, 256)),
        ("cpu", 69, 160, (72, 80)),  # 160 - 72 - 1 = 87, a multiple of 8
        ("cpu", 69, 4096, (72, 256)),
        ("cuda", None, None, (2048, 16384)),
        ("cuda", 69, 32768, (2048, 16384)),
        ("cuda", 3001, 32768, (3008, 16384)),
        ("cuda", 69, 8192, (72, 8112)),  # 2048 + 16384 do not fit: 8192 - 72 - 1 = 8119
    ],
)
def test_lengths_fit_the_context(device, longest, context, expected):
    assert lengths(device, longest, context) == expected
    assert context is None or sum(expected) + 1 <= context


def test_a_context_without_room_for_an_answer_is_refused():
    with refuses("context of 80 tokens", "72"):
        lengths("cpu", 69, 80)


def test_rollouts_divide_over_the_devices_and_every_domain_has_a_prompt():
    for gpus, domains in ((1, 2), (3, 2), (7, 5), (8, 100)):
        for device in ("cpu", "cuda"):
            sizes = choose(device, gpus, domains, Student(), None)
            for part in (sizes.expert, sizes.training):
                assert part["prompts_per_step"] * part["samples_per_prompt"] % gpus == 0
            assert domains <= sizes.training["prompts_per_step"]


def test_the_papers_numbers_on_gpus_and_the_demonstrations_for_a_tiny_student():
    papers = choose("cuda", 8, 2, Student(32768, 150000, 8_000_000_000), 700)
    assert (papers.expert["steps"], papers.training["steps"], papers.training["learning_rate"]) == (
        500,
        50,
        1e-5,
    )
    assert (papers.training["prompts_per_step"], papers.estimator) == (1024, "sampled")
    tiny = choose("cpu", 1, 2, Student(160, 99, 3_000_000), 69)
    assert (tiny.expert["learning_rate"], tiny.training["learning_rate"], tiny.estimator) == (
        3e-4,
        7e-4,
        "full",
    )
    larger = choose("cpu", 1, 2, Student(8192, 49152, 270_000_000), 69)
    assert (larger.training["learning_rate"], larger.estimator) == (1e-5, "sampled")
