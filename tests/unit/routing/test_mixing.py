"""Mixing: shares by hand-computed numbers, the effect of every option, the order of prompts."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest
from pydantic import TypeAdapter, ValidationError

from configs.blocks.mixing import Mixing
from configs.load import load_config
from routing.kept import check_mix, mix_text
from routing.mix import mix, shares_of
from routing.routers.decisions import RoutedPrompt
from routing.sources.collect import Prompt, collect_prompts
from tests.helpers.messages import refuses
from tests.helpers.tiny_model import config_dict, write_config, write_jsonl


def mixing(block) -> Mixing:
    return TypeAdapter(Mixing).validate_python(block)


def items(**counts: int) -> list[RoutedPrompt]:
    """Prompts whose length falls with their number, and whose difficulty is the number modulo 5."""
    return [
        RoutedPrompt(
            Prompt(
                f"{name}{i}", ({"role": "user", "content": "x" * (count - i)},), "a", name, "f.jsonl", i + 1,
                difficulty=float(i % 5),
            ),
            name,
            "test",
        )
        for name, count in counts.items()
        for i in range(count)
    ]  # fmt: skip


def ids(rows, domain=None) -> list[str]:
    return [row.prompt.id for row in rows if domain in (None, row.domain)]


# ------------------------------------------------------------------------------------------- shares


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ("balanced", {"math": "1/3", "code": "1/3", "chat": "1/3"}),
        (
            {"kind": "weighted", "weights": {"math": 0.5, "code": 0.3, "chat": 0.2}},
            {"math": "1/2", "code": "3/10", "chat": "1/5"},
        ),
        (
            {"kind": "weighted", "weights": {"math": 3, "code": 2, "chat": 1}},
            {"math": "1/2", "code": "1/3", "chat": "1/6"},
        ),
        # 64, 16 and 4 prompts: proportions 16 : 4 : 1, their square roots 4 : 2 : 1
        ({"kind": "temperature", "temperature": 1}, {"math": "16/21", "code": "4/21", "chat": "1/21"}),
        ({"kind": "temperature", "temperature": 2}, {"math": "4/7", "code": "2/7", "chat": "1/7"}),
        # T = 1/2 squares them: 256 : 16 : 1
        ({"kind": "temperature", "temperature": 0.5}, {"math": "256/273", "code": "16/273", "chat": "1/273"}),
    ],
)
def test_shares_by_hand(block, expected):
    mixed = mix(items(math=64, code=16, chat=4), mixing(block), 1)
    assert sum(mixed.shares.values()) == 1
    for name, share in expected.items():  # roots are rounded to 1e-9 of the largest
        assert float(mixed.shares[name]) == pytest.approx(float(Fraction(share)), abs=1e-8)
    used = Counter(item.domain for item in mixed.prompts)
    assert used == (
        {"math": 4, "code": 4, "chat": 4} if block == "balanced" else {"math": 64, "code": 16, "chat": 4}
    )


def test_a_high_temperature_is_nearly_equal_and_a_tiny_one_gives_the_smallest_something():
    numbers = {"math": 10**6, "code": 10}
    hot, cold = (shares_of(mixing({"kind": "temperature", "temperature": t}), numbers) for t in (10**6, 1e-3))
    assert float(hot["code"]) == pytest.approx(0.5, abs=1e-5)
    assert 0 < hot["code"] < hot["math"] and 0 < cold["code"] < 1e-8


def test_counts_are_those_of_the_rows_by_step():
    """Shares of 5/8 and 3/8 of 4 rows are 2.5 and 1.5: the larger half alternates."""
    mixed = mix(items(math=9, code=7), mixing({"kind": "weighted", "weights": {"math": 5, "code": 3}}), 1)
    rows = mixed.rows(4, 4)
    steps = [Counter(row.domain for row in rows[4 * step : 4 * step + 4]) for step in range(4)]
    assert steps == [{"math": 3, "code": 1}, {"math": 2, "code": 2}] * 2
    assert mixed.counts(4, 4) == Counter(row.domain for row in rows) == {"math": 10, "code": 6}


# --------------------------------------------------------------------------- every option is effective

BASE = {"kind": "weighted", "weights": {"a": 1, "b": 1}}


@pytest.mark.parametrize(
    "changed",
    [
        "balanced",
        {**BASE, "weights": {"a": 2, "b": 1}},
        {"kind": "temperature", "temperature": 1},
        {"kind": "temperature", "temperature": 2},
        {**BASE, "order": "curriculum"},
        {**BASE, "order": {"kind": "curriculum", "by": "column", "column": "level"}},
    ],
)
def test_every_option_changes_the_rows(changed):
    given = items(a=12, b=5)
    plain = ids(mix(given, mixing(BASE), 1).rows(6, 4))
    others = [
        mix(given, mixing(block), 1).rows(6, 4) for block in (BASE, {**BASE, "order": "shuffled"}, changed)
    ]
    assert ids(others[0]) == ids(others[1]) == plain != ids(others[2])


def test_the_seed_changes_the_rows_and_repeats_them():
    given = items(a=12, b=5)
    for block in ("balanced", BASE, {"kind": "balanced", "order": "curriculum"}):
        one, again, other = (ids(mix(given, mixing(block), seed).rows(2, 4)) for seed in (1, 1, 2))
        assert one == again != other


@pytest.mark.parametrize(
    ("block", "problem"),
    [
        ({"kind": "weighted", "weights": {}}, "at least 1 item"),
        ({"kind": "weighted", "weights": {"a": 0}}, "greater than 0"),
        ({"kind": "temperature", "temperature": 0}, "greater than 0"),
        ({"kind": "balanced", "weights": {"a": 1}}, "Extra inputs"),
        ({"kind": "balanced", "order": {"kind": "curriculum", "by": "column"}}, "needs `column`"),
        ({"kind": "balanced", "order": {"kind": "curriculum", "column": "level"}}, "with `by: column` only"),
        ({"kind": "balanced", "order": {"kind": "shuffled", "by": "length"}}, "Extra inputs"),
    ],
)
def test_blocks_that_cannot_hold_are_refused(block, problem):
    with pytest.raises(ValidationError, match=problem):
        mixing(block)


@pytest.mark.parametrize(
    ("weights", "wrong"), [("{math: 1}", "domain 'code'"), ("{math: 1, code: 1, chat: 1}", "'chat'")]
)
def test_weights_name_every_domain(tmp_path, weights, wrong):
    path = write_config(tmp_path, config_dict(tmp_path))
    with refuses("mixing.weights", wrong, "math, code"):
        load_config(path, [f"mixing={{kind: weighted, weights: {weights}}}"])


def test_a_domain_without_a_row_is_refused(tmp_path):
    """8 rows in all at a share of 1/101 are 0.08 rows: none."""
    path = write_config(tmp_path, config_dict(tmp_path))
    weights = "mixing={kind: weighted, weights: {math: 100, code: 1}}"
    config = load_config(path, [weights]).config
    with refuses("mixing", "domain 'code'", "8 rows", "0.99%", "2 steps", "training.prompts_per_step = 4"):
        check_mix(config, items(math=6, code=6), [])
    more = load_config(path, [weights, "training.steps=30"]).config
    check_mix(more, items(math=6, code=6), [])
    grpo = [
        "baselines=[{kind: grpo, samples_per_prompt: 2}]",
        "training.steps=15",
        "training.prompts_per_step=8",
    ]
    with refuses("baseline `grpo`", "4"):
        check_mix(load_config(path, [weights, *grpo]).config, items(math=6, code=6), [])


def test_the_parts_in_words(tmp_path):
    config = load_config(write_config(tmp_path, config_dict(tmp_path))).config
    mixed = mix(items(math=9, code=2), config.mixing, 42)
    assert mix_text(mixed, config, "code") == "2 used, 50.0% of every step, 4 rows (2.0 passes)"


# ---------------------------------------------------------------------------------------- curriculum


def lengths(rows, domain):
    return [len(row.prompt.messages[0]["content"]) for row in rows if row.domain == domain]


def test_a_curriculum_by_length_goes_from_easy_to_hard_in_every_domain():
    block = {"kind": "weighted", "weights": {"a": 1, "b": 2}, "order": "curriculum"}
    rows = mix(items(a=8, b=8), mixing(block), 3).rows(4, 6)
    assert lengths(rows, "a") == [1, 2, 3, 4, 5, 6, 7, 8]
    # b has 16 rows, two passes: over the whole training, not once a pass
    assert lengths(rows, "b") == sorted([*range(1, 9)] * 2)
    shuffled = mix(items(a=8, b=8), mixing({**block, "order": "shuffled"}), 3).rows(4, 6)
    assert [row.domain for row in rows] == [row.domain for row in shuffled]  # the steps' domains stay
    assert Counter(ids(rows)) == Counter(ids(shuffled))  # and so do the rows
    assert lengths(shuffled, "a") != sorted(lengths(shuffled, "a"))


def test_a_curriculum_takes_the_rows_that_shuffling_takes():
    """Where there are more prompts than rows it does not take the easiest ones only."""
    order = {"kind": "balanced", "order": "curriculum"}
    rows, plain = (mix(items(a=100), mixing(block), 3).rows(5, 4) for block in (order, "balanced"))
    assert sorted(ids(rows)) == sorted(ids(plain)) and lengths(rows, "a") == sorted(lengths(plain, "a"))
    assert max(lengths(rows, "a")) > 50


def test_a_curriculum_by_column_and_ties_in_shuffled_order():
    block = {"kind": "balanced", "order": {"kind": "curriculum", "by": "column", "column": "level"}}
    rows, plain = (mix(items(a=20), mixing(b), 3).rows(5, 4) for b in (block, "balanced"))
    levels = [row.prompt.difficulty for row in rows]
    assert levels == sorted(levels) == [float(level) for level in range(5) for _ in range(4)]
    for level in range(5):
        own = [row.prompt.id for row in plain if row.prompt.difficulty == level]
        assert ids(rows)[4 * level : 4 * level + 4] == own


@pytest.fixture
def leveled(tmp_path):
    """A config whose prompts have a column `extra.level`; returns its text in `level` of each row."""
    config = config_dict(tmp_path)
    config["mixing"] = {
        "kind": "balanced", "order": {"kind": "curriculum", "by": "column", "column": "extra.level"}
    }  # fmt: skip

    def leveled(*levels):
        for name in ("math", "code"):
            rows = [
                {"prompt": f"{name}{i}", "answer": "a", "extra": {"level": v}} for i, v in enumerate(levels)
            ]
            write_jsonl(tmp_path / f"{name}.jsonl", rows)
        return load_config(write_config(tmp_path, config)).config

    return leveled


def test_the_column_is_read_with_the_prompts(leveled):
    prompts = collect_prompts(leveled(3, "0.5", -1)).prompts
    assert [prompt.difficulty for prompt in prompts] == [3.0, 0.5, -1.0] * 2


@pytest.mark.parametrize("value", ["hard", None, True, float("nan"), [1]])
def test_a_level_that_is_no_number_is_refused_with_its_row(leveled, value):
    with refuses("math.jsonl, row 2", "column 'extra.level'", "mixing.order.column", "number"):
        collect_prompts(leveled(1, value))


def test_a_source_without_the_column_is_refused(leveled, tmp_path):
    config = leveled(1, 2)
    write_jsonl(tmp_path / "code.jsonl", [{"prompt": "q", "answer": "a"}])
    with refuses("code.jsonl, row 1", "'extra.level'", "columns there"):
        collect_prompts(config)


# --------------------------------------------------------------------------------------- resumability


def test_shuffled_rows_of_the_first_steps_do_not_depend_on_the_total():
    for block in ("balanced", BASE, {"kind": "temperature", "temperature": 2}):
        mixed = mix(items(a=12, b=5), mixing(block), 1)
        assert ids(mixed.rows(3, 4)) == ids(mixed.rows(9, 4))[:12]


def test_a_domains_shuffled_rows_do_not_depend_on_the_steps_size_or_the_other_shares():
    given = items(a=12, b=5)
    plain = mix(given, mixing(BASE), 1).rows(6, 4)
    for block, size in ((BASE, 8), ({**BASE, "weights": {"a": 3, "b": 1}}, 4)):
        other = mix(given, mixing(block), 1).rows(6, size)
        for name in "ab":
            assert all(x == y for x, y in zip(ids(plain, name), ids(other, name), strict=False))
