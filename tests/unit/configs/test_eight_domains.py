"""The demo cut into eight domains: every problem has one, and no training row is held out."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from configs.demo import eight, problems

ROWS = {
    name: [json.loads(line) for line in problems.content(name, eight.FILES).splitlines()]
    for name in eight.FILES
}
TRAIN = ROWS["eight.train.jsonl"]
HELDOUT = {name.split(".")[1]: rows for name, rows in ROWS.items() if "heldout" in name}


@pytest.mark.parametrize("name", sorted(eight.FILES))
def test_committed_file_is_the_generators_output(name):
    assert (problems.FOLDER / name).read_bytes() == problems.content(name, eight.FILES).encode()


def test_every_problem_of_the_demo_has_one_domain():
    for problem in (*problems.additions(), *problems.multiplications()):
        assert sum(is_of(problem) for is_of in eight.MATH.values()) == 1, problem.key
    aggregates = Counter(name for names in eight.CODE.values() for name in names)
    assert aggregates == Counter(problems.AGGREGATES.keys())


def test_carries_are_told_apart():
    assert eight.MATH["add_plain"](problems.Arithmetic(0, 32, 45))
    assert not eight.MATH["add_plain"](problems.Arithmetic(0, 35, 45))
    assert eight.MATH["add_carry"](problems.Arithmetic(0, 35, 45))


def test_sizes():
    assert Counter(row["domain"] for row in TRAIN) == {
        "add_plain": 300, "add_carry": 300, "multiply": 300,
        "sum": 73, "extreme": 146, "first": 73, "list": 73, "ordered": 146,
    }  # fmt: skip
    sizes = {domain: len(rows) for domain, rows in HELDOUT.items()}
    assert sizes == {
        "add_plain": 60, "add_carry": 60, "multiply": 60,
        "sum": 26, "extreme": 52, "first": 26, "list": 26, "ordered": 52,
    }  # fmt: skip


def test_no_class_is_trained_on_and_held_out():
    def classes(prompts):
        kinds = (*problems.additions(), *problems.multiplications(), *problems.programs())
        by_prompt = {problem.prompt: problem.class_key for problem in kinds}
        return {by_prompt[prompt] for prompt in prompts}

    trained = classes(row["prompt"] for row in TRAIN)
    held_out = classes(row.get("instruction", row["prompt"]) for rows in HELDOUT.values() for row in rows)
    assert trained and held_out and not trained & held_out
