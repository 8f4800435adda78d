"""The baseline `opd_more`: its steps, rows and lambda by hand, what is refused, and how it is continued."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest

from merging.baselines.opd_more import further_config
from merging.planning.memory import disk_parts
from merging.planning.plan import make_plan
from merging.reports.prompt_report import polish_use, prompt_use
from merging.reports.reporting import curves, notes
from merging.run import train_baselines, train_student
from merging.state.polished import steps_of_opd_more
from merging.training.alarms import Alarm, AlarmLog
from routing.kept import scheduled
from tests.helpers.messages import refuses
from tests.helpers.model_copies import weights_of
from tests.helpers.opened_runs import open_run
from tests.helpers.paths import STUDENT
from tests.helpers.polished_runs import added, experts, open_polished, polished_config, stage_trainer
from tests.helpers.stand_in_trainers import FakeCluster
from tests.helpers.tiny_model import sum_rows, write_jsonl

MORE = "baselines=[opd_more]"
"""After a polish of two steps of four prompts and two answers: 16 rollouts, so four steps of the merge's."""


@pytest.fixture
def trainer(monkeypatch):
    return stage_trainer(monkeypatch)


def trained(tmp_path, *overrides, **changes):
    run = open_polished(tmp_path, *overrides, **changes)
    teachers = experts(tmp_path)
    train_student(run.folder, teachers, FakeCluster())
    train_baselines(run.folder, teachers, run.found.routed, FakeCluster())
    return run.folder


def rows_of(file):
    return [(row["teacher"], row["extra_info"]["id"]) for row in pq.read_table(file).to_pylist()]


def ids(rows):
    return [(row.domain, row.prompt.id) for row in rows]


# --------------------------------------------------------------------------------------------- steps


@pytest.mark.parametrize(
    ("polish", "samples", "steps"),
    [
        ({"steps": 2, "prompts_per_step": 4, "samples_per_prompt": 2}, 1, 4),  # 16 / 4
        ({"steps": 2, "prompts_per_step": 4, "samples_per_prompt": 2}, 2, 2),  # 16 / 8
        ({"steps": 3, "prompts_per_step": 3, "samples_per_prompt": 2}, 1, 5),  # 18 / 4 = 4.5
        ({"steps": 1, "prompts_per_step": 2, "samples_per_prompt": 2}, 4, 1),  # 4 / 16 = 0.25
    ],
)
def test_as_few_steps_of_the_merges_size_as_hold_the_polishs_rollouts(tmp_path, polish, samples, steps):
    config = polished_config(tmp_path, f"training.samples_per_prompt={samples}", polish=polish).config
    assert steps_of_opd_more(config) == steps
    each, wanted = 4 * samples, polish["steps"] * polish["prompts_per_step"] * polish["samples_per_prompt"]
    assert 0 <= steps * each - wanted < each


def test_without_a_polish_it_is_refused(tmp_path):
    with refuses("baselines", "`opd_more`", "`polish`"):
        polished_config(tmp_path, MORE, "polish=null")


# ------------------------------------------------------------------------------------ model and rows


def test_the_distilled_student_goes_on_with_the_prompts_that_come_next(tmp_path, trainer):
    folder = trained(tmp_path, MORE)
    assert trainer.names == ["merge", "polish", "opd_more"]
    merge, polish, more = trainer.jobs
    assert more.model_path == str(folder.distilled) == polish.model_path
    assert added(folder.baseline("opd_more"), folder.distilled) == {1}, "it is the distilled student no more"
    assert (more.steps, more.prompts_per_step, more.samples_per_prompt) == (4, 4, 1)
    (tmp_path / "longer").mkdir()
    longer = open_polished(tmp_path / "longer", "training.steps=6")
    expected = ids(scheduled(longer.folder.config, longer.found.routed, 4))
    assert rows_of(merge.train_file) + rows_of(more.train_file) == expected
    assert (more.learning_rate, more.seed) == (merge.learning_rate, merge.seed)
    assert more.verl_overrides == merge.verl_overrides, "objective, teachers and scorer"


def test_it_is_evaluated_everywhere_and_reported_with_exact_counts(tmp_path, trainer):
    polish = {"steps": 3, "prompts_per_step": 3, "samples_per_prompt": 2, "learning_rate": 0.25}
    folder = trained(tmp_path, MORE, polish=polish)
    models = {model.name: model for model in folder.models(experts(tmp_path))}
    assert models["opd_more"].is_asked("math") and models["opd_more"].is_asked("code")
    use = polish_use(folder)
    assert sum(use.rollouts.values()) == 18
    assert (use.more.model, use.more.steps, use.more.rollouts) == ("opd_more", 5, {"math": 10, "code": 10})
    rows = {use.training: use for use in prompt_use(folder).trainings}["baseline opd_more"]
    assert rows.trained == dict(rows.planned) == {"math": 10, "code": 10} and rows.steps == 5
    assert [line["step"] for line in curves(folder, [])["baseline opd_more"]] == [1, 2, 3, 4, 5]
    assert "baseline opd_more" in folder.measured.wall_seconds


def test_a_curriculum_is_at_its_end_so_its_rows_come_shuffled(tmp_path, trainer):
    mixing = {"kind": "balanced", "order": {"kind": "curriculum", "by": "length"}}
    rows = [{**row, "prompt": f"{'very ' * n}math {row['prompt']}"} for n, row in enumerate(sum_rows(4))]
    found = {}
    for name, changes in (("sorted", {"mixing": mixing}), ("shuffled", {})):
        loaded = polished_config(tmp_path, MORE, f"name={name}", **changes)
        write_jsonl(tmp_path / "math.jsonl", rows)
        run = open_run(loaded, tmp_path / name).written()
        train_student(run.folder, experts(tmp_path), FakeCluster())
        train_baselines(run.folder, experts(tmp_path), run.found.routed, FakeCluster())
        found[name] = [rows_of(job.train_file) for job in trainer.jobs[-3:]]
    assert found["sorted"][0] != found["shuffled"][0] and found["sorted"][2] == found["shuffled"][2]


# -------------------------------------------------------------------------------------------- lambda


def test_each_domains_lambda_is_the_one_that_the_merge_ended_with(tmp_path, trainer):
    options = [MORE, "objective.reward_scale_warmup_steps=1"]
    domains = ["domains.code.objective={reward_scale: 2.0}", "objective.reward_scale=1.5"]
    run = open_polished(tmp_path, *options, *domains)
    train_student(run.folder, experts(tmp_path), FakeCluster())
    log = AlarmLog(run.folder.train)
    log.add(Alarm("math", "length", 1, "answers of math have changed"), one_from=2)
    train_baselines(run.folder, experts(tmp_path), run.found.routed, FakeCluster())
    rows = pq.read_table(trainer.jobs[-1].train_file).to_pylist()
    assert {(row["teacher"], row["reward_scale"]) for row in rows} == {("math", 1.0), ("code", 2.0)}
    loaded = polished_config(tmp_path, *options, *domains)
    (stage,) = [s for s in make_plan(loaded, tmp_path / "other").stages if s.name == "baseline opd_more"]
    assert (stage.rollouts, stage.scorer_passes) == (16, 32)


def test_its_own_alarms_act_on_it_and_not_on_the_merge(tmp_path, trainer):
    run = open_polished(tmp_path, MORE)
    AlarmLog(run.folder.path / "opd_more").add(Alarm("code", "length", 1, "changed"), one_from=3)
    (run.folder.path / "opd_more" / "baseline.json").write_text('{"kind": "opd_more"}')
    train_student(run.folder, experts(tmp_path), FakeCluster())
    train_baselines(run.folder, experts(tmp_path), run.found.routed, FakeCluster())
    rows = pq.read_table(trainer.jobs[-1].train_file).to_pylist()
    of_code = [row["reward_scale"] for row in rows if row["teacher"] == "code"]
    assert of_code == [1.25] * 4 + [1.0] * 4, "two rows a step, the last two steps at 1"
    assert "baseline opd_more, step 1: changed; lambda of code is 1 from step 3" in notes(run.folder)


def test_a_warm_up_of_the_learning_rate_shrinks_as_the_steps_do(tmp_path):
    config = polished_config(tmp_path, MORE, "training.steps=40", "training.warmup_steps=20").config
    found = further_config(config.opd_more(), config, tmp_path / "run").training
    assert (found.steps, found.warmup_steps) == (4, 2)


def test_its_learning_rate_is_its_own_and_another_one_trains_anew(tmp_path, trainer):
    trained(tmp_path, MORE)
    folder = trained(tmp_path, "baselines=[{kind: opd_more, learning_rate: 0.5}]")
    assert trainer.names == ["merge", "polish", "opd_more", "opd_more"]
    assert [job.learning_rate for job in trainer.jobs[2:]] == [1e-5, 0.5]
    assert "baseline opd_more was trained at learning rate 0.5, the merge at 1e-05" in notes(folder)


# ----------------------------------------------------------------------------------- stop and resume


def test_a_run_that_is_killed_in_it_continues_and_trains_nothing_else(tmp_path, trainer):
    trainer.killed_in = "opd_more"
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, MORE)
    plan = {
        stage.name: stage for stage in make_plan(polished_config(tmp_path, MORE), tmp_path / "run").stages
    }
    stage = plan["baseline opd_more"]
    assert (stage.state, stage.steps, stage.rollouts) == ("continues at step 1", 3, 12)
    trainer.killed_in = None
    for _ in range(2):
        folder = trained(tmp_path, MORE)
    assert trainer.names == ["merge", "polish", "opd_more", "opd_more"]
    assert [line["step"] for line in folder.read_metrics("opd_more")] == [1, 2, 3, 4]


def test_added_to_a_finished_run_whose_prompts_have_changed_it_is_refused(tmp_path, trainer):
    trained(tmp_path)
    loaded = polished_config(tmp_path, MORE)
    write_jsonl(tmp_path / "math.jsonl", [{"prompt": f"other {i}", "answer": "1"} for i in range(4)])
    run = open_run(loaded, tmp_path / "run")
    with refuses("baseline `opd_more`", "prompts of domain 'math' have changed"):
        train_baselines(run.folder, experts(tmp_path), run.found.routed, FakeCluster())
    assert trainer.names == ["merge", "polish"]


# ---------------------------------------------------------------------------------------------- plan


def test_the_plan_shows_its_steps_rollouts_and_disk(tmp_path):
    loaded = polished_config(tmp_path, MORE)
    plan = make_plan(loaded, tmp_path / "run")
    stages = {stage.name: (stage.state, stage.steps, stage.rollouts) for stage in plan.stages}
    assert stages["baseline opd_more"] == ("to do", 4, 16) == ("to do", 4, stages["polish"][2])
    size = sum(value.size for value in weights_of(STUDENT).values())
    runs = [open_polished(tmp_path, option) for option in ("baselines=[]", MORE)]
    parts = [disk_parts(run.folder.config, run.found.fingerprints) for run in runs]
    assert parts[1]["checkpoints"] - parts[0]["checkpoints"] == 2 * 12 * size
    assert parts[1]["models"] - parts[0]["models"] == 4 * size
