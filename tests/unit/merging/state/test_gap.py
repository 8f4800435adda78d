"""Merges whose shares follow the distance to the optimum: what is written, read, counted and told."""

from __future__ import annotations

import json
from collections import Counter

import pyarrow.parquet as pq
import pytest

from common.errors import RunFailed
from eval.report.sections.prompts import shares_table, to_json
from merging.cli.route_text import Routing
from merging.planning.plan import make_plan
from merging.reports.prompt_report import merge_rows, prompt_use
from merging.reports.reporting import notes
from merging.run import train_baselines, train_student
from merging.training.distil import Distillation
from routing.kept import check_mix, mix_of, mix_text
from tests.helpers.gap_runs import GapTrainer, gap_config
from tests.helpers.messages import refuses, says
from tests.helpers.opened_runs import open_run
from tests.helpers.polished_runs import POLISH, experts
from tests.helpers.stand_in_trainers import FakeCluster

POLISHED = {"polish": {**POLISH, "steps": 3, "prompts_per_step": 8, "samples_per_prompt": 2}}


@pytest.fixture
def opened(tmp_path):
    """Opens a run in tmp_path/run, its prompts written."""
    return lambda *overrides, run="run", **changes: open_run(
        gap_config(tmp_path, *overrides, **changes), tmp_path / run
    ).written()


@pytest.fixture
def trainer(monkeypatch):
    """Trains every stage; more than one may be made in a test."""

    def trainer(**given):
        made = GapTrainer(**given)
        for place in ("trainer.run.train", "merging.training.rewarded.train"):
            monkeypatch.setattr(place, made)
        return made

    return trainer


def merged(run, tmp_path, name="merge", scale=None):
    work = run.folder.train if name == "merge" else run.folder.path / name
    target = run.folder.student if name == "merge" else run.folder.baseline(name)
    Distillation(run.folder, experts(tmp_path), name, work, scale).run(FakeCluster(), target)


def teachers(path) -> list[str]:
    return pq.read_table(path).column("teacher").to_pylist()


def by_step(names) -> list[dict[str, int]]:
    return [dict(Counter(names[start : start + 8])) for start in range(0, len(names), 8)]


EQUAL = {"math": 4, "code": 4}
PLANNED = [{"code": 6, "math": 2}] * 2 + [{"math": 6, "code": 2}] * 2


# ---------------------------------------------------------------------------------- before the training


def test_the_pool_has_every_prompt_once_and_the_other_file_equal_shares(opened):
    run = opened()
    pool = pq.read_table(run.folder.pool).to_pylist()
    assert [row["extra_info"]["id"] for row in pool] == [item.prompt.id for item in run.found.routed]
    assert len({row["extra_info"]["id"] for row in pool}) == 6
    assert by_step(teachers(run.folder.prompts_file)) == [EQUAL] * 4
    assert not opened(mixing="balanced", run="other").folder.pool.exists()


def test_what_is_not_known_yet_is_not_told_as_if_it_were(opened, tmp_path):
    run, told = opened(), ("12.5%", "87.5%", "while the student trains")
    config = run.folder.config
    counts = run.folder.counts()
    assert counts["share_range"] == (0.125, 0.875) and counts["shares"] == {"math": 0.5, "code": 0.5}
    (note,) = [note for note in counts["notes"] if "mixing" in note]
    says(note, "gap", *told, "2 steps", "equal shares", absent=["one step later"])
    says(
        mix_text(mix_of(config, run.found.routed), config, "math"), "4 used", *told, absent=["50.0%", "rows"]
    )
    (assumed,) = [
        text for text in make_plan(gap_config(tmp_path), run.folder.path).assumptions if "gap" in text
    ]
    assert assumed == note
    lines = list(Routing(config, run.found).lines(0))
    assert note in lines and Routing(config, run.found).to_json(0)["share_range"] == [0.125, 0.875]
    ahead = opened("training.overlap=one_step", run="ahead").folder.counts()["notes"]
    says(next(note for note in ahead if "gap" in note), "one step later", "training.overlap: one_step")


def test_a_floor_without_a_row_is_refused(opened, tmp_path):
    """32 rows: 1 of 64 of them is half a row."""
    run = opened()
    config = gap_config(tmp_path, "mixing={kind: gap, floor: 0.03125}").config
    with refuses("mixing.floor", "32 rows", "1.56%", "0.03125", "2 domains"):
        check_mix(config, run.found.routed, [])
    check_mix(gap_config(tmp_path, "mixing={kind: gap, floor: 0.0625}").config, run.found.routed, [])


# ----------------------------------------------------------------------------------- while it trains


def test_every_steps_rows_follow_the_last_validation(opened, trainer, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("merging.training.distil.say", said.append)
    verl, run = trainer(), opened("objective.reward_scale_warmup_steps=2", "objective.reward_scale=2.0")
    merged(run, tmp_path)
    (job,) = verl.jobs
    assert job.train_file == run.folder.pool
    assert job.verl_overrides["data.custom_cls.name"] == "GapRows"
    read = pq.read_table(run.folder.train / "rows.parquet").to_pylist()
    assert by_step([row["teacher"] for row in read]) == PLANNED
    assert [row["extra_info"]["index"] for row in read] == list(range(32))
    # lambda is its step's: 1, then halfway to 2, then 2
    assert [{row["reward_scale"] for row in read[8 * n : 8 * n + 8]} for n in range(4)] == [
        {1.0}, {1.5}, {2.0}, {2.0},
    ]  # fmt: skip
    assert [row for step in verl.read["merge"] for row in step] == [
        (row["extra_info"]["id"], row["reward_scale"], row["extra_info"]["index"]) for row in read
    ]
    lines = {line["step"]: line for line in run.folder.read_metrics("merge")}
    assert [(lines[n]["share/math"], lines[n]["share/code"]) for n in (1, 2, 3)] == [
        (0.25, 0.75), (0.25, 0.75), (0.75, 0.25),
    ]  # fmt: skip
    assert "share/math" not in lines[0], "the validation before step 1 is no step"
    says(said[0], "shares by it", "math 25.0%", "code 75.0%")
    says(said[-1], "after step 4", absent=["shares"])


@pytest.mark.parametrize("killed_after", [1, 2, 3, 4])
def test_a_training_that_was_killed_reads_the_rows_of_one_that_was_not(
    opened, trainer, tmp_path, killed_after
):
    whole, run = trainer(), opened()
    merged(run, tmp_path)
    killed, again = trainer(), opened(run="again")
    killed.killed_after = killed_after
    with pytest.raises(KeyboardInterrupt):
        merged(again, tmp_path)
    killed.killed_after = None
    merged(again, tmp_path)
    assert killed.read == whole.read and len(whole.read["merge"]) == 4
    assert pq.read_table(again.folder.train / "rows.parquet") == pq.read_table(
        run.folder.train / "rows.parquet"
    )


def test_one_step_ahead_rows_follow_a_validation_one_step_later(opened, trainer, tmp_path):
    trainer()
    run = opened("training.overlap=one_step")
    merged(run, tmp_path)
    assert by_step(teachers(run.folder.train / "rows.parquet")) == [EQUAL, *PLANNED[:2], PLANNED[2]]
    table = shares_table(prompt_use(run.folder))
    assert [row[1:3] for row in table.rows] == [["1 to 1", "none yet"], ["2 to 3", "0"], ["4 to 4", "2"]]
    assert table.rows[0][3:] == ["50.0%", "50.0%"]


def test_a_baseline_plans_by_its_own_validations(opened, trainer, tmp_path):
    trainer()
    run = opened("baselines=[opd]")
    merged(run, tmp_path)
    other = trainer(accuracies={0: (0.5, 0.5), 2: (0.9, 0.1), 4: (0.9, 0.1)})
    merged(run, tmp_path, "opd", 1.0)
    read = pq.read_table(run.folder.path / "opd" / "rows.parquet").to_pylist()
    assert by_step([row["teacher"] for row in read]) == [EQUAL] * 2 + [{"math": 1, "code": 7}] * 2
    assert {row["reward_scale"] for row in read} == {1.0} and other.jobs[0].train_file == run.folder.pool
    planned = {rows.training: (rows.planned, rows.trained) for rows in prompt_use(run.folder).trainings}
    assert planned == {
        "merge": ({"math": 16, "code": 16},) * 2,
        "baseline opd": ({"math": 10, "code": 22},) * 2,
    }


def test_a_back_off_changes_lambda_and_no_row(opened, trainer, tmp_path):
    from merging.training.alarms import Alarm, AlarmLog

    trainer()
    run = opened()
    merged(run, tmp_path)
    again = opened(run="again")
    again.folder.train.mkdir()
    AlarmLog(again.folder.train).add(Alarm("math", "length", 2, "answers have changed"), one_from=3)
    merged(again, tmp_path)
    rows, others = (pq.read_table(r.folder.train / "rows.parquet").to_pylist() for r in (run, again))
    for one, other in zip(rows, others, strict=True):
        lower = one["teacher"] == "math" and one["extra_info"]["index"] >= 16
        assert other == one | {"reward_scale": 1.0 if lower else 1.25}


# ----------------------------------------------------------------------------------- when it is over


def test_rows_that_the_loss_did_not_see_end_the_run(opened, trainer, tmp_path, monkeypatch):
    trainer()
    run = opened()
    merged(run, tmp_path)
    # the shares are another function of the same validations: by accuracy rather than by distance
    lines = [json.loads(line) for line in (run.folder.train / "validation.jsonl").read_text().splitlines()]
    for line in lines:
        line["scores"] = {"math": line["scores"]["code"], "code": line["scores"]["math"]}
    (run.folder.train / "validation.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setattr("trainer.run.train", lambda *_: None)
    with refuses("step 1", "planned code 2, math 6", "trained on code 6, math 2", error=RunFailed):
        merged(run, tmp_path)


def test_planned_and_trained_are_told_by_step_and_domain(opened, trainer, tmp_path):
    trainer()
    run = opened()
    merged(run, tmp_path)
    use = prompt_use(run.folder)
    assert merge_rows(run.folder) == {"math": 16, "code": 16}
    table = shares_table(use)
    assert list(table.heads) == ["Training", "Steps", "Validation after step", "math", "code"]
    assert [list(row) for row in table.rows] == [
        ["merge", "1 to 2", "0", "25.0% (80.0%)", "75.0% (40.0%)"],
        ["merge", "3 to 4", "2", "75.0% (40.0%)", "25.0% (80.0%)"],
    ]
    told = to_json(use)
    assert told["share_range"] == [0.125, 0.875] and told["planned_shares"][1]["shares"]["math"] == 0.75
    (note,) = [note for note in notes(run.folder) if "followed" in note]
    says(note, "merge", "mixing: gap", "math 25.0% to 75.0%")


def test_patience_ends_the_plan_with_the_training(opened, trainer, tmp_path):
    trainer(accuracies={0: (0.8, 0.4), 2: (0.4, 0.4)})
    run = opened("training.patience=1")
    merged(run, tmp_path)
    assert by_step(teachers(run.folder.train / "rows.parquet")) == PLANNED[:2]
    (rows,) = prompt_use(run.folder).trainings
    assert rows.planned == rows.trained == {"math": 4, "code": 12} and (rows.measured_steps, rows.steps) == (
        2,
        4,
    )


def test_trainings_without_validations_have_equal_shares(opened, trainer, tmp_path):
    """The polish, `grpo` and `opd_more`, which goes on behind what the merge has read of each domain."""
    verl = trainer(accuracies={0: (0.9, 0.1), 2: (0.9, 0.1), 4: (0.9, 0.1)})
    run = opened("baselines=[opd_more, {kind: grpo, samples_per_prompt: 2}]", **POLISHED)
    train_student(run.folder, experts(tmp_path), FakeCluster())
    train_baselines(run.folder, experts(tmp_path), run.found.routed, FakeCluster())
    assert by_step(teachers(run.folder.train / "rows.parquet")) == [{"math": 1, "code": 7}] * 4
    jobs = {job.name: job for job in verl.jobs}
    assert jobs.keys() == {"merge", "polish", "opd_more", "grpo"}
    for name, chunks in (("polish", 3), ("opd_more", 6), ("grpo", 2)):
        assert by_step(teachers(jobs[name].train_file)) == [EQUAL] * chunks
        assert "data.gap" not in jobs[name].verl_overrides
    # a training of equal shares reads the same rows of each domain, in the same order, from its beginning
    longer = mix_of(run.folder.config, run.found.routed).rows(60, 8)
    for name, before in (("math", 4), ("code", 28)):
        stream = [row.prompt.id for row in longer if row.domain == name]
        read = [
            row for row in pq.read_table(jobs["opd_more"].train_file).to_pylist() if row["teacher"] == name
        ]
        assert [row["extra_info"]["id"] for row in read] == stream[before : before + 24]
