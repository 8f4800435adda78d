"""Lambda in every step, by hand; and which models it makes the objective read."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest

from configs.load import load_config
from merging.exopd.lambda_schedule import (
    LambdaSchedule,
    models_ever_read,
    models_read,
    read_by_trainings,
    reads_reference,
    reads_teacher,
)
from tests.helpers.tiny_model import config_dict, write_config


@pytest.fixture
def schedule(tmp_path):
    """The schedule of a config with these overrides."""
    path = write_config(tmp_path, config_dict(tmp_path))

    def schedule(*overrides, **how):
        return LambdaSchedule.of(load_config(path, overrides).config, **how)

    return schedule


def values(schedule: LambdaSchedule, domain: str, steps) -> list[float]:
    return [schedule.at(domain, step) for step in steps]


# ------------------------------------------------------------------------------------------- values


def test_lambda_warms_up_from_one(schedule):
    warm = schedule("objective={reward_scale: 1.5, reward_scale_warmup_steps: 4}")
    assert values(warm, "math", (1, 2, 3, 5, 6)) == [1.0, 1.125, 1.25, 1.5, 1.5]
    low = schedule("objective={reward_scale: 0.5, reward_scale_warmup_steps: 2}")
    assert values(low, "math", (1, 2, 3, 9)) == [1.0, 0.75, 0.5, 0.5]
    at_once = schedule("objective.reward_scale=1.5")
    assert at_once.at("math", 1) == 1.5


def test_once_warmed_up_it_is_the_declared_number_exactly(schedule):
    """1 + (0.1 - 1) is 0.09999999999999998 in floating point."""
    assert schedule("objective={reward_scale: 0.1, reward_scale_warmup_steps: 1}").at("math", 2) == 0.1


def test_a_domain_has_its_own_lambda_and_the_warm_up_of_all(schedule):
    own = schedule(
        "objective={reward_scale: 1.5, reward_scale_warmup_steps: 2}",
        "domains.code.objective={reward_scale: 0}",
    )
    assert [own.in_step(step) for step in (1, 2, 3)] == [
        {"math": 1.0, "code": 1.0}, {"math": 1.25, "code": 0.5}, {"math": 1.5, "code": 0.0}
    ]  # fmt: skip
    assert own.settled() == {"math": 1.5, "code": 0.0}


def test_a_baselines_lambda_holds_for_every_domain_in_every_step(schedule):
    override = schedule(
        "objective={reward_scale: 1.5, reward_scale_warmup_steps: 4}",
        "domains.code.objective={reward_scale: 2}",
        override=0.5,
    )
    assert [override.in_step(step) for step in (1, 3, 9)] == [{"math": 0.5, "code": 0.5}] * 3


def test_a_back_off_is_of_one_domain_from_one_step_on(schedule):
    backed_off = schedule("objective.reward_scale=1.25", one_from={"math": 3})
    assert values(backed_off, "math", (1, 2, 3, 4, 99)) == [1.25, 1.25, 1.0, 1.0, 1.0]
    assert values(backed_off, "code", (1, 3, 99)) == [1.25] * 3
    assert backed_off.settled() == {"math": 1.0, "code": 1.25}


def test_a_back_off_ends_a_warm_up_and_an_override(schedule):
    warm = "objective={reward_scale: 1.5, reward_scale_warmup_steps: 4}"
    assert values(schedule(warm, one_from={"math": 3}), "math", range(1, 7)) == [1, 1.125, 1, 1, 1, 1]
    both = schedule(warm, override=2.0, one_from={"math": 3})
    assert values(both, "math", (1, 2, 3, 4)) == [2.0, 2.0, 1.0, 1.0]
    assert values(both, "code", (1, 2, 3, 4)) == [2.0] * 4


def test_the_rows_of_a_step_have_that_steps_lambda(schedule):
    warm = schedule(
        "objective={reward_scale: 1.5, reward_scale_warmup_steps: 2}",
        "domains.code.objective={reward_scale: 0}",
        one_from={"math": 3},
    )
    rows = ["math", "code", "code", "math", "math", "code"]
    assert warm.of_rows(rows, prompts_per_step=2) == [1.0, 1.0, 0.5, 1.25, 1.0, 0.0]


def test_an_auto_that_is_not_chosen_yet_has_no_schedule(schedule):
    with pytest.raises(AssertionError):
        schedule("objective.reward_scale=auto")


# -------------------------------------------------------------------------------------------- parts


@pytest.mark.parametrize(
    ("scale", "warmup", "one_from", "parts"),
    [
        (1.25, 0, None, [(1, 10)]),
        (1.25, 0, 4, [(1, 3), (4, 10)]),
        (1.25, 0, 1, [(1, 10)]),
        (1.25, 0, 10, [(1, 9), (10, 10)]),
        (1.25, 4, None, [(1, 5), (6, 10)]),
        (1.25, 9, None, [(1, 10)]),
        (1.25, 30, None, [(1, 10)]),
        (1.25, 4, 8, [(1, 5), (6, 7), (8, 10)]),
        (1.25, 4, 3, [(1, 2), (3, 10)]),
        (1.25, 4, 6, [(1, 5), (6, 10)]),
        (1.25, 4, 2, [(1, 10)]),
        (1.0, 4, None, [(1, 10)]),
    ],
)
def test_a_training_has_as_few_parts_as_can_be(scale, warmup, one_from, parts):
    schedule = LambdaSchedule({"math": scale}, warmup, {} if one_from is None else {"math": one_from})
    assert schedule.spans("math", 10) == parts


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 1.25])
def test_between_the_ends_of_a_part_lambda_is_on_the_line(scale):
    """The slow way: every step of every combination of warm-up and back-off."""
    for warmup in range(9):
        for one_from in (None, *range(1, 8)):
            schedule = LambdaSchedule({"math": scale}, warmup, {} if one_from is None else {"math": one_from})
            steps = []
            for first, last in schedule.spans("math", 7):
                a, b = schedule.at("math", first), schedule.at("math", last)
                for step in range(first, last + 1):
                    share = (step - first) / (last - first) if last > first else 0.0
                    assert schedule.at("math", step) == pytest.approx(a + share * (b - a))
                    steps.append(step)
            assert steps == list(range(1, 8))


# ------------------------------------------------------------------------------------- who is read


BOTH = {"math", "code"}


@pytest.mark.parametrize(
    ("overrides", "one_from", "teachers", "references"),
    [
        (("objective.reward_scale=1.25",), None, BOTH, BOTH),
        (("objective.reward_scale=1",), None, BOTH, set()),
        (("objective.reward_scale=0",), None, set(), BOTH),
        (("objective.reward_scale=1", "domains.code.objective={reward_scale: 0}"), None, {"math"}, {"code"}),
        # lambda 1 in the first step only, and in both of two steps
        (("objective={reward_scale: 0, reward_scale_warmup_steps: 1}",), None, BOTH, BOTH),
        (
            ("objective={reward_scale: 0, reward_scale_warmup_steps: 2}", "training.steps=1"),
            None,
            BOTH,
            set(),
        ),
        (("objective.reward_scale=1.5",), {"math": 2}, BOTH, BOTH),
        (("objective.reward_scale=1.5",), {"math": 1}, BOTH, {"code"}),
    ],
)
def test_what_a_training_of_two_steps_ever_reads(tmp_path, overrides, one_from, teachers, references):
    config = load_config(write_config(tmp_path, config_dict(tmp_path)), overrides).config
    read = models_ever_read(LambdaSchedule.of(config, one_from=one_from), config.training.steps)
    assert (set(read.teachers), set(read.references)) == (teachers, references)


def test_the_merge_and_the_baselines_at_another_lambda_each_read_their_own(tmp_path):
    overrides = ("objective.reward_scale=0", "baselines=[opd, interpolation, average]")
    config = load_config(write_config(tmp_path, config_dict(tmp_path)), overrides).config
    read = [(set(each.teachers), set(each.references)) for each in read_by_trainings(config)]
    assert read == [(set(), BOTH), (BOTH, set()), (BOTH, BOTH)]
    auto = config.model_copy(
        update={"objective": config.objective.model_copy(update={"reward_scale": "auto"})}
    )
    assert set(read_by_trainings(auto)[0].teachers) == set(read_by_trainings(auto)[0].references) == BOTH


@pytest.mark.parametrize(
    ("scale", "read"),
    [(0.0, ["B"]), (1e-9, ["T", "B"]), (0.5, ["T", "B"]), (1.0, ["T"]), (1.25, ["T", "B"])],
)
def test_at_zero_the_teacher_and_at_one_the_reference_is_not_read(scale, read):
    assert models_read(scale, "T", "B") == read
    assert (reads_teacher(scale), reads_reference(scale)) == ("T" in read, "B" in read)


@pytest.mark.parametrize("scale", [0.0, 1.0, 1.25])
@pytest.mark.parametrize("scorer", ["shared", "pool"])
def test_a_rollout_is_scored_by_the_models_that_lambda_reads(scale, scorer):
    """T is -0.1, -0.2, ... and B -1, -2, ...; what is not read repeats what is."""
    torch = pytest.importorskip("torch")
    asked, found = _scored(scale, scorer)
    assert asked == models_read(scale, "math", "reference:1")
    teacher, reference = -torch.arange(5.0) / 10, -torch.arange(5.0)
    expected = {0.0: (reference, reference), 1.0: (teacher, teacher), 1.25: (teacher, reference)}[scale]
    torch.testing.assert_close(found["teacher_logprobs"], torch.stack(expected, dim=-1))


@pytest.mark.parametrize(("scale", "said"), [(0.0, "reference nan"), (1.0, "teacher nan")])
def test_a_wrong_score_is_said_of_the_model_that_was_read(scale, said):
    pytest.importorskip("torch")
    with pytest.raises(ValueError, match=rf"out of range: {said} \(objective"):
        _scored(scale, "shared", wrong=True)


@pytest.mark.parametrize("scorer", ["shared", "pool"])
@pytest.mark.parametrize("served", [("math",), ("reference:1",), ("math", "reference:1")])
def test_served_models_are_asked_at_their_servers_and_the_columns_stay(scorer, served):
    torch = pytest.importorskip("torch")
    plain = _scored(1.25, scorer)[1]["teacher_logprobs"]
    asked, fields = _scored(1.25, scorer, served=served)
    assert torch.equal(fields["teacher_logprobs"], plain)
    assert sorted(asked) == sorted(
        f"{name} at its server" if name in served else name for name in ("math", "reference:1")
    )
    asked, fields = _scored(1.0, scorer, served=("math",))
    assert asked == ["math at its server"]
    assert torch.equal(fields["teacher_logprobs"], plain[:, :1].expand(-1, 2))


def _scored(scale: float, scorer: str, wrong: bool = False, served: tuple[str, ...] = ()):
    """Models that a worker asks for one rollout of 2 + 3 tokens, and what it attaches to the rollout."""
    import asyncio

    import torch

    from merging.exopd.agent_loop import ScoringAgentLoopWorker

    rows = {"math": -torch.arange(5.0) / 10, "reference:1": -torch.arange(5.0)}
    asked: list[str] = []

    async def score(models, token_ids, response_tokens):
        asked.extend(models)
        return [rows[model].numpy() * (float("nan") if wrong else 1.0) for model in models]

    async def ask(sequence_ids, routing_key):
        asked.append(routing_key)
        return None, rows[routing_key][:, None]

    async def at_server(name, token_ids, response_tokens):
        assert (token_ids, response_tokens) == ([5, 6, 7, 8, 9], 3)
        asked.append(f"{name} at its server")
        return rows[name]

    worker = object.__new__(ScoringAgentLoopWorker)
    worker.scorer = SimpleNamespace(score=score) if scorer == "shared" else None
    worker.teacher_server_manager = SimpleNamespace(compute_teacher_logprobs_single=ask)
    worker.distributions, worker.references = False, {"math": "reference:1"}
    worker.served = {name: SimpleNamespace(score=partial(at_server, name)) for name in served}
    worker.largest_log_ratio, worker.tokenizer = 100.0, SimpleNamespace(decode=str)
    return asked, asyncio.run(worker.scores("math", scale, [5, 6], [7, 8, 9]))
