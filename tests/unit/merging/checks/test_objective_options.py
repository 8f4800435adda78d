"""Options of the objective: what they make of the training rows, and where they make no sense."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from configs.load import load_config
from merging.checks.preflight import preflight
from merging.exopd.names import CLIP_COLUMN, GATE_COLUMN, REWARD_WEIGHT_COLUMN, row_columns
from tests.helpers.merge_jobs import config_with
from tests.helpers.messages import problems_of, say_each, says
from tests.helpers.opened_runs import open_run
from tests.helpers.tiny_model import config_dict, write_config, write_jsonl

COLUMNS = (CLIP_COLUMN, GATE_COLUMN, REWARD_WEIGHT_COLUMN)


@pytest.fixture
def loaded(tmp_path):
    path = write_config(tmp_path, config_dict(tmp_path))
    return lambda *overrides: load_config(path, ["baselines=[]", "training.samples_per_prompt=2", *overrides])


def columns(loaded, tmp_path, *overrides) -> dict[str, set]:
    """The further columns of the training rows, with the values that each domain has."""
    run = open_run(loaded(*overrides), tmp_path / "run").written()
    rows = pq.read_table(run.folder.prompts_file).to_pylist()
    return {
        name: {(row["teacher"], row[name]) for row in rows} for name in COLUMNS if name in rows[0]
    }  # fmt: skip


def test_by_default_rows_have_no_further_columns(loaded, tmp_path):
    assert columns(loaded, tmp_path) == {}
    assert row_columns(config_with()) == {}


def test_a_clip_a_gate_and_a_weight_are_columns_of_the_rows(loaded, tmp_path):
    adds = "domains.code.objective={verifiable: {kind: add, weight: 0.5}}"
    given = ("objective={verifiable: gate, clip_log_ratio: 3}", adds)
    assert columns(loaded, tmp_path, *given) == {
        CLIP_COLUMN: {("math", 3.0), ("code", 3.0)},
        GATE_COLUMN: {("math", 1.0), ("code", 0.0)},
        REWARD_WEIGHT_COLUMN: {("math", 0.0), ("code", 0.5)},
    }


def test_a_domain_may_leave_its_reward_out(loaded, tmp_path):
    given = ("objective.verifiable=gate", "domains.code.objective={verifiable: none}")
    assert columns(loaded, tmp_path, *given) == {GATE_COLUMN: {("math", 1.0), ("code", 0.0)}}


# ------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize("kind", ["gate", "add"])
def test_a_reward_in_the_loss_needs_an_answer_to_every_prompt(loaded, tmp_path, kind):
    write_jsonl(tmp_path / "code.jsonl", [{"prompt": f"def f{i}", "answer": None} for i in range(6)])
    preflight(loaded(), tmp_path / "run")  # the merge alone needs none
    problems = problems_of(preflight, loaded(f"objective.verifiable={kind}"), tmp_path / "run")
    remedy = "domains.code.objective.verifiable: none"
    say_each(problems, (f"{tmp_path}/code.jsonl, row 1", f"objective.verifiable: {kind}", "exact", remedy))
    without = "domains.code.objective={verifiable: none}"
    preflight(loaded(f"objective.verifiable={kind}", without), tmp_path / "run")


def test_a_reward_that_needs_no_answer_judges_every_prompt(loaded, tmp_path):
    write_jsonl(tmp_path / "code.jsonl", [{"prompt": f"def f{i}", "answer": None} for i in range(6)])
    regex = "domains.code.reward={kind: regex, pattern: '[0-9]+'}"
    preflight(loaded("objective.verifiable=gate", regex), tmp_path / "run")


# -------------------------------------------------------------------------------- where it has no meaning


@pytest.mark.parametrize("estimator", ["full", "topk"])
@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("objective.verifiable", "gate", "objective.verifiable: gate"),
        ("objective.verifiable", {"kind": "add", "weight": 2}, "objective.verifiable: add"),
        ("domains.math.objective", {"verifiable": "gate"}, "domains.math.objective.verifiable: gate"),
        ("objective.clip_log_ratio", 4, "objective.clip_log_ratio: 4"),
    ],
)
def test_estimators_without_sampled_advantages_refuse_them(estimator, place, value, said):
    with pytest.raises(ValidationError) as caught:
        config_with(place, value, "objective.estimator", estimator)
    says(str(caught.value), said, f"objective.estimator: {estimator}", "estimator: sampled")
    config_with(place, value, "objective.estimator", "sampled")
    config_with("objective.verifiable", "none", "objective.estimator", estimator)


def test_one_answer_to_a_prompt_is_no_group_to_add_the_advantage_of():
    with pytest.raises(ValidationError) as caught:
        config_with("objective.verifiable", "add", "training.samples_per_prompt", 1)
    says(str(caught.value), "objective.verifiable: add", "samples_per_prompt", "gate")
    config_with("objective.verifiable", "gate", "training.samples_per_prompt", 1)


@pytest.mark.parametrize("scale", ["0", "1"])
def test_a_clip_needs_a_step_that_reads_teacher_and_reference(loaded, tmp_path, scale):
    clip = "objective.clip_log_ratio=2"
    facts = ("objective.clip_log_ratio: 2", "lambda 0 and 1", "reward_scale")
    given = loaded(clip, f"objective.reward_scale={scale}")
    say_each(problems_of(preflight, given, tmp_path / "run"), facts)
    preflight(loaded(clip, f"objective.reward_scale={scale}", "domains.math.objective={reward_scale: 1.5}"),
              tmp_path / "run")  # fmt: skip
    preflight(loaded(clip), tmp_path / "run")


@pytest.mark.parametrize("value", ["0", "-1"])
def test_a_clip_is_above_zero(loaded, value):
    assert problems_of(loaded, f"objective.clip_log_ratio={value}")
