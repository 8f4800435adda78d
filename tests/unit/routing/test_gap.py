"""Shares by the distance to the optimum: hand-computed values, what always holds, and the reading order."""

from __future__ import annotations

import random
from collections import Counter
from fractions import Fraction
from itertools import islice, pairwise

import pytest

from routing.gap import GapBudget, GapOrder, planned_steps
from routing.mix import domain_stream

DOMAINS = ("math", "code", "chat")


def budget(*domains: str, floor="1/4", optimum=None, **changed) -> GapBudget:
    best = {name: Fraction((optimum or {}).get(name, "1")) for name in domains}
    given = {"steps": 4, "size": 8, "every": 2, "late": 0, **changed}
    return GapBudget(tuple(domains), Fraction(floor), best, **given)


def parts(shares) -> list[str]:
    return [str(share) for share in shares.values()]


# ------------------------------------------------------------------------------------------- shares


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        # distances 0.2 and 0.6
        ((0.8, 0.4), ["1/4", "3/4"]),
        # 0.1 of 1.0 is under an eighth, a quarter of the equal share
        ((0.9, 0.1), ["1/8", "7/8"]),
        ((1.0, 0.3), ["1/8", "7/8"]),
        ((0.5, 0.5), ["1/2", "1/2"]),
        # none is left to gain
        ((1.0, 1.0), ["1/2", "1/2"]),
    ],
)
def test_the_domain_that_is_farther_from_its_optimum_has_the_larger_share(accuracies, expected):
    given = budget("math", "code")
    assert parts(given.shares(dict(zip(("math", "code"), accuracies, strict=True)))) == expected


def test_what_a_raised_domain_costs_may_raise_another_one():
    """Least share 1/6. Distances 0, 0.1, 0.3: the first is raised, and 5/6 are left for 1 : 3. Of 0, 0.1, 0.5
    the second has 5/6 * 1/6 then, which is less than 1/6 too."""
    given = budget(*DOMAINS, floor="1/2")
    assert parts(given.shares({"math": 1.0, "code": 0.9, "chat": 0.7})) == ["1/6", "5/24", "5/8"]
    assert parts(given.shares({"math": 1.0, "code": 0.9, "chat": 0.5})) == ["1/6", "1/6", "2/3"]


def test_the_optimum_is_where_a_domain_has_nothing_left_to_gain():
    """To 0.6 math has 0.2 left, code has 0.6; at and above its optimum a domain has the least share."""
    given = budget("math", "code", optimum={"math": "0.6"})
    assert parts(given.shares({"math": 0.4, "code": 0.4})) == ["1/4", "3/4"]
    for accuracy in (0.6, 0.7):
        assert parts(given.shares({"math": accuracy, "code": 0.4})) == ["1/8", "7/8"]


def test_the_floor_bounds_all_shares():
    low, high, equal = (budget("math", "code", floor=f) for f in ("1/10", "1/2", "1"))
    assert [(float(each.least), float(each.most)) for each in (low, high, equal)] == [
        (0.05, 0.95), (0.25, 0.75), (0.5, 0.5),
    ]  # fmt: skip
    at = {"math": 1.0, "code": 0.0}
    assert [parts(each.shares(at))[0] for each in (low, high, equal)] == ["1/20", "1/4", "1/2"]
    alone = budget("math")
    assert parts(alone.shares({"math": 0.3})) == ["1"] and alone.least == alone.most == 1


def drawn(generator: random.Random) -> float:
    return generator.choice([0.0, 0.1, 1 / 3, 0.5, 1.0, generator.random()])


@pytest.mark.parametrize("seed", range(30))
def test_shares_add_up_to_1_and_do_not_depend_on_the_order_of_domains(seed):
    generator = random.Random(seed)
    names = [f"d{n}" for n in range(generator.randint(1, 7))]
    accuracies = {name: drawn(generator) for name in names}
    floor = generator.choice(["1/4", "1/10", "1", "99/100"])
    shares = budget(*names, floor=floor).shares(accuracies)
    assert sum(shares.values()) == 1
    assert min(shares.values()) >= Fraction(floor) / len(names)
    gaps = sorted(names, key=lambda name: accuracies[name])
    assert all(shares[far] >= shares[near] for far, near in pairwise(gaps))
    turned = generator.sample(names, len(names))
    assert budget(*turned, floor=floor).shares(accuracies) == shares


# -------------------------------------------------------------------------------------------- steps

DONE = {0: {"math": 0.8, "code": 0.4}, 2: {"math": 0.4, "code": 0.8}}


def counts(given: GapBudget, done=DONE) -> list[dict[str, int]]:
    return [dict(Counter(step.names)) for step in planned_steps(given, done.get)]


def test_every_step_follows_the_last_validation_before_it():
    steps = list(planned_steps(budget("math", "code"), DONE.get))
    assert [(step.step, step.validation) for step in steps] == [(1, 0), (2, 0), (3, 2), (4, 2)]
    assert [Counter(step.names) for step in steps] == [{"math": 2, "code": 6}] * 2 + [
        {"math": 6, "code": 2}
    ] * 2
    # math is due at 4 of the rows so far, and at 8; code at 4/3, 8/3, 4 and so on
    assert steps[0].names == ("code", "code", "math", "code") * 2
    assert parts(steps[3].shares) == ["3/4", "1/4"]


def test_rows_that_are_read_one_step_ahead_follow_a_validation_one_step_later():
    """Step 1 is read before any validation counts, and steps 3 and 5 before those that precede them."""
    given = budget("math", "code", steps=5, late=1)
    steps = list(planned_steps(given, {**DONE, 4: DONE[0]}.get))
    assert [step.validation for step in steps] == [None, 0, 0, 2, 2]
    assert [Counter(step.names)["math"] for step in steps] == [4, 2, 2, 6, 6]
    assert [step.validation for step in planned_steps(budget("math", steps=1, late=1), {}.get)] == [None]


def test_validations_that_are_not_done_end_the_plan_and_later_ones_change_no_row_before_them():
    given = budget("math", "code", steps=6)
    assert counts(given, {}) == []
    first = list(planned_steps(given, DONE.get))
    assert [step.step for step in first] == [1, 2, 3, 4]
    for last in ({"math": 0.0, "code": 1.0}, {"math": 1.0, "code": 0.0}):
        assert list(planned_steps(given, {**DONE, 4: last}.get))[:4] == first


@pytest.mark.parametrize(
    "changed", [{"floor": "1"}, {"optimum": {"code": "0.5"}}, {"size": 16}, {"every": 1}, {"late": 1}]
)
def test_every_part_of_a_budget_changes_the_rows(changed):
    done = {step: DONE[2 * (step in (1, 2))] for step in range(4)}
    assert counts(budget("math", "code", **changed), done) != counts(budget("math", "code"), done)


def test_what_rounding_gave_too_little_is_made_up_for_over_many_validations():
    """An eighth of two rows is a quarter of a row: rounded anew at every validation, it would always be 0."""
    given = budget("math", "code", steps=40, size=2, every=1)
    done = {step: {"math": 1.0, "code": 0.0} for step in range(40)}
    rows = Counter(name for step in planned_steps(given, done.get) for name in step.names)
    assert abs(rows["math"] - 10) <= 1 and rows.total() == 80


@pytest.mark.parametrize("seed", range(60))
def test_rows_stay_near_the_shares_whatever_validations_find(seed):
    generator = random.Random(seed)
    names = tuple(f"d{n}" for n in range(generator.randint(1, 6)))
    size, every = generator.choice([1, 2, 3, 8, 32]), generator.choice([1, 1, 2, 3, 7])
    given = budget(*names, steps=generator.randint(1, 40), size=size, every=every, late=seed % 2)
    done = {step: {name: drawn(generator) for name in names} for step in range(40)}
    owed = dict.fromkeys(names, Fraction(0))
    steps = list(planned_steps(given, done.get))
    assert [step.step for step in steps] == list(range(1, given.steps + 1))
    for step in steps:
        assert len(step.names) == size and sum(step.shares.values()) == 1
        for name in names:
            owed[name] += step.shares[name] * size - step.names.count(name)
        assert max(map(abs, owed.values())) < 2


def test_a_budget_is_the_same_after_it_was_told_to_verl():
    given = budget(*DOMAINS, floor="1/3", optimum={"code": "0.7"}, late=1)
    assert GapBudget.from_json(given.to_json()) == given


# ---------------------------------------------------------------------------------------- the order

TEACHERS = ["math", "code", "code", "math", "math"]


def order(done, **changed) -> GapOrder:
    return GapOrder(budget("math", "code", **changed), 3, TEACHERS, done.get)


def test_a_domains_rows_are_those_of_a_training_with_other_shares():
    given = order(DONE)
    places = [given.place(index) for index in range(len(given))]
    assert len(places) == 32 and [place.step for place in places] == [1 + n // 8 for n in range(32)]
    for name in ("math", "code"):
        own = [place.row for place in places if place.domain == name]
        pool = [row for row, teacher in enumerate(TEACHERS) if teacher == name]
        assert own == list(islice(domain_stream(pool, 3, name), len(own))) and set(own) == set(pool)


def test_the_order_goes_on_as_validations_are_done():
    """A training that was killed and one that was not read the same rows."""
    whole, done = order(DONE), {0: DONE[0]}
    growing = order(done)
    assert [growing.place(index) for index in range(16)] == [whole.place(index) for index in range(16)]
    with pytest.raises(AssertionError, match="before the validation after step 2 is done"):
        growing.place(16)
    done[2] = DONE[2]
    later = order(done)
    assert [later.place(index) for index in range(31, 15, -1)] == [
        whole.place(index) for index in range(31, 15, -1)
    ]
