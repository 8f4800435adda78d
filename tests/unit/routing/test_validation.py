"""Which prompts a validation asks: judged, trained on by nothing, in no benchmark, short, and a sample."""

from __future__ import annotations

import json

import pytest

from configs.load import load_config
from merging.checks.preflight import preflight
from tests.helpers.messages import problems_of, say_each, says
from tests.helpers.tiny_model import config_dict, sum_rows, write_config, write_jsonl

ON = "training.validate_every=1"
BEST = (ON, "training.keep=best")


@pytest.fixture
def run(tmp_path):
    """preflight of a config of which `math` has these validation prompts and problems of a benchmark."""
    config = config_dict(tmp_path)

    def run(rows, *overrides, problems=()):
        path = write_jsonl(tmp_path / "valid.jsonl", rows)
        config["domains"]["math"]["validation"] = {"kind": "file", "path": str(path)}
        asked = [{"id": f"p{i}", "prompt": text, "answer": "1"} for i, text in enumerate(problems)]
        bench = {"kind": "math", "name": "bench", "path": str(write_jsonl(tmp_path / "bench.jsonl", asked))}
        config["domains"]["math"]["benchmarks"] = [bench] if problems else []
        return preflight(load_config(write_config(tmp_path, config), overrides), tmp_path / "run")

    return run


def rows(*texts: str, answer: str | None = "x") -> list[dict]:
    return [{"prompt": text, "answer": answer} for text in texts]


def texts(found) -> list[str]:
    return [item.prompt.text for item in found.validation.rows]


def notes(found) -> list[str]:
    return [note for note in found.notes if "validation" in note]


def test_nothing_is_read_without_validations(run):
    assert texts(run(rows("a+b"))) == []


def test_prompts_are_read_and_domains_without_are_named(run):
    found = run(rows("a+b", "b+c"), ON)
    assert texts(found) == ["a+b", "b+c"] and {item.domain for item in found.validation.rows} == {"math"}
    say_each(notes(found), ("domain code has no validation prompts",))


def test_of_more_than_the_limit_the_seed_draws_some(run):
    many = rows(*(f"{a}+{b}" for a in "abcdef" for b in "uvw"))
    few = texts(run(many, ON, "training.validation_limit=5"))
    assert len(few) == 5 and few == texts(run(many, ON, "training.validation_limit=5"))
    assert few != texts(run(many, ON, "training.validation_limit=5", "training.seed=1"))
    assert few == [row["prompt"] for row in many if row["prompt"] in few]  # in the source's order
    assert len(texts(run(many, ON))) == 18


def test_prompts_without_an_answer_or_trained_on_are_left_out_and_counted(run):
    trained = sum_rows(2)
    found = run([*rows("a+b"), *rows("b+c", "c+d", answer=None), *trained], ON)
    assert texts(found) == ["a+b"]
    say_each(
        notes(found),
        ("domain code",),
        ("domains.math.validation", "2 prompts", "answer", "exact"),
        ("domains.math.validation", "2 prompts", "training prompts"),
    )


def test_a_domain_of_which_nothing_is_left_is_refused(run):
    (problem,) = problems_of(run, sum_rows(3), ON)
    says(problem, "domains.math.validation", "none of its 3 prompts", "training.validate_every", "3 among")


def test_repeats_of_benchmarks_are_noted_dropped_or_refused_as_training_prompts_are(run):
    given = (rows("a+b", "b+c"), ON)
    noted = run(*given, problems=["b+c"])
    assert texts(noted) == ["a+b", "b+c"]
    say_each(notes(noted), ("domain code",), ("domains.math.validation", "1 of its 2 prompts", "p0 of bench"))
    dropped = run(*given, "overlap.action=drop", problems=["b+c"])
    assert texts(dropped) == ["a+b"] and any("1 prompt left out" in note for note in notes(dropped))
    problems = problems_of(run, *given, "overlap.action=refuse", problems=["b+c"])
    say_each(
        problems, ("domains.math.validation", "1 of its 2 prompts", "p0 of bench", "overlap.action: drop")
    )


@pytest.mark.parametrize("option", ["training.keep=best", "training.patience=1"])
def test_what_judges_the_student_may_not_choose_it(run, option):
    problems = problems_of(run, rows("a+b", "b+c"), ON, option, problems=["b+c"])
    say_each(
        problems,
        ("domains.math.validation", "p0 of bench", "choose the student's weights", "overlap.action: drop"),
    )
    assert texts(run(rows("a+b", "b+c"), ON, option, "overlap.action=drop", problems=["b+c"])) == ["a+b"]


def test_nor_may_it_decide_what_the_student_is_trained_on(run, tmp_path):
    """With `mixing: gap` every domain is validated, and the shares follow what it finds."""
    code = {"kind": "file", "path": str(write_jsonl(tmp_path / "code.valid.jsonl", rows("c+d")))}
    plans = (ON, "mixing=gap", f"domains.code.validation={json.dumps(code)}")
    problems = problems_of(run, rows("a+b", "b+c"), *plans, problems=["b+c"])
    say_each(problems, ("domains.math.validation", "p0 of bench", "mixing: gap", "overlap.action: drop"))
    dropped = run(rows("a+b", "b+c"), *plans, "overlap.action=drop", problems=["b+c"])
    assert texts(dropped) == ["a+b", "c+d"]


def test_long_prompts_are_refused_or_dropped_as_training_prompts_are(run):
    given = (rows("a+b", "a" * 40), ON)
    problems = problems_of(run, *given)
    say_each(
        problems, ("valid.jsonl, row 2", "domains.math.validation", "training.max_prompt_tokens", "drop")
    )
    found = run(*given, "training.too_long=drop")
    assert texts(found) == ["a+b"] and any("1 prompt left out" in note for note in notes(found))


def test_answers_that_the_reward_cannot_use_are_refused(run):
    (problem,) = problems_of(run, rows("a+b", answer=" "), ON)
    says(problem, "domains.math.validation", "valid.jsonl, row 1", "the answer is empty")
