"""The polish: its rows and job by hand, what is refused, and its stages killed and continued."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from common.errors import ConfigError
from merging.baselines.teacher_more import fields
from merging.planning.device_memory import device_memory
from merging.planning.memory import disk_parts
from merging.planning.plan import make_plan
from merging.reports.prompt_report import polish_use, prompt_use
from merging.reports.reporting import curves, provenance
from merging.run import evaluate_run, train_baselines, train_student
from merging.state.polished import steps_of
from merging.training.polish import polish_job
from tests.helpers.messages import refuses
from tests.helpers.model_copies import weights_of
from tests.helpers.opened_runs import open_run
from tests.helpers.paths import STUDENT
from tests.helpers.polished_runs import POLISH, added, experts, open_polished, polished_config, stage_trainer
from tests.helpers.stand_in_trainers import FakeCluster
from tests.helpers.tiny_model import write_jsonl

OPEN = [{"prompt": f"open {i}", "answer": None} for i in range(4)]
MORE = "baselines=[teacher_more]"


class Cluster(FakeCluster):
    def close(self):
        pass


def rows_of(file):
    return [(row["teacher"], row["extra_info"]["id"]) for row in pq.read_table(file).to_pylist()]


# ---------------------------------------------------------------------------------------------- rows


def test_every_step_has_each_domains_share_and_the_counts_say_so(tmp_path):
    folder = open_polished(tmp_path).folder
    rows = rows_of(folder.polish_prompts)
    assert [Counter(name for name, _ in rows[at : at + 4]) for at in (0, 4)] == [{"math": 2, "code": 2}] * 2
    assert folder.polish_rows() == {"math": 4, "code": 4}
    assert {row["extra_info"]["reward"] for row in pq.read_table(folder.polish_prompts).to_pylist()} == {
        "exact"
    }


def test_a_domain_without_answers_is_left_out_and_said(tmp_path):
    given = {"kind": "model", "path": str(STUDENT)}
    loaded = polished_config(tmp_path, f"domains.code.expert={json.dumps(given)}")
    write_jsonl(tmp_path / "code.jsonl", OPEN)
    run = open_run(loaded, tmp_path / "run").written()
    assert run.folder.polish_rows() == {"math": 8}
    assert {name for name, _ in rows_of(run.folder.polish_prompts)} == {"math"}
    (note,) = [note for note in run.folder.counts()["notes"] if note.startswith("polish")]
    assert "domain code is left out" in note and "4 prompts" in note and "'exact'" in note
    use = polish_use(run.folder)
    assert use.left_out == ["code"] and use.rollouts == {"math": 16}


def test_single_prompts_without_answers_are_left_out_and_said(tmp_path):
    given = {"kind": "model", "path": str(STUDENT)}
    loaded = polished_config(tmp_path, f"domains.code.expert={json.dumps(given)}")
    write_jsonl(tmp_path / "code.jsonl", [*OPEN, {"prompt": "answered", "answer": "1"}])
    run = open_run(loaded, tmp_path / "run").written()
    assert len({id for name, id in rows_of(run.folder.polish_prompts) if name == "code"}) == 1
    assert any(note.startswith("polish: 4 of 5 prompts of code") for note in run.found.notes)


def test_no_domain_with_answers_is_refused_with_one_message(tmp_path):
    given = json.dumps({"kind": "model", "path": str(STUDENT)})
    loaded = polished_config(tmp_path, f"domains.code.expert={given}", f"domains.math.expert={given}")
    for name in ("math", "code"):
        write_jsonl(
            tmp_path / f"{name}.jsonl", [{**row, "prompt": f"{name} {row['prompt']}"} for row in OPEN]
        )
    with pytest.raises(ConfigError) as error:
        open_run(loaded, tmp_path / "run")
    (message,) = error.value.problems
    assert message.startswith("polish:") and "math (exact), code (exact)" in message


def test_a_domain_without_a_row_is_refused(tmp_path):
    mixing = {"kind": "weighted", "weights": {"math": 20, "code": 1}}
    with refuses("polish", "domain 'code'", "8", "prompts_per_step"):
        open_polished(tmp_path, "training.steps=50", mixing=mixing)


# ----------------------------------------------------------------------------------------------- job

CHANGES = {
    "polish.steps=3": {"steps": 3},
    "polish.prompts_per_step=6": {"prompts_per_step": 6},
    "polish.samples_per_prompt=4": {"samples_per_prompt": 4},
    "polish.learning_rate=0.5": {"learning_rate": 0.5},
    "polish.warmup_steps=1": {"warmup_steps": 1},
    "polish.max_response_tokens=8": {"max_response_tokens": 8},
    "polish.save_every=1": {"save_every": 1},
    "polish.verl={actor_rollout_ref.actor.clip_ratio_high: 0.3}": {
        "verl_settings": {"actor_rollout_ref.actor.clip_ratio_high": 0.3}
    },
    "training.seed=1": {"seed": 1},
    "training.learning_rate=0.5": {},  # the merge's own
    "training.samples_per_prompt=2": {},
}


def job_of(tmp_path, *overrides):
    config = polished_config(tmp_path, *overrides).config
    job = polish_job(config, config.polish, STUDENT, tmp_path / "rows", tmp_path / "polish")
    return {field.name: getattr(job, field.name) for field in dataclasses.fields(job)}


def test_every_option_changes_its_field_and_no_other(tmp_path):
    plain = job_of(tmp_path)
    for override, expected in CHANGES.items():
        found = job_of(tmp_path, override)
        assert {name: value for name, value in found.items() if value != plain[name]} == expected, override
    changed = {override.split("=")[0].removeprefix("polish.") for override in CHANGES}
    assert type(polished_config(tmp_path).config.polish).model_fields.keys() <= changed


def test_without_the_block_nothing_changes(tmp_path):
    run = open_polished(tmp_path, "polish=null")
    assert not run.folder.polish_prompts.exists() and run.folder.distilled == run.folder.student
    assert "polish" not in run.folder.counts() and polish_use(run.folder) is None
    assert [model.name for model in run.folder.models([])] == ["base", "student"]


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("actor_rollout_ref.model.lora_rank", "training.lora_rank"),
        ("data.seed", "training.seed"),
        ("data.train_batch_size", "polish.prompts_per_step"),
    ],
)
def test_settings_of_verls_that_would_break_it_are_refused(tmp_path, key, said):
    with refuses("polish.verl", key, said):
        open_run(polished_config(tmp_path, f"polish.verl={{{key}: 4}}"), tmp_path / "run")


def test_what_does_not_divide_over_the_devices_or_fit_a_micro_batch_is_refused(tmp_path):
    with refuses("polish", "8", "3 devices"):
        open_run(
            polished_config(tmp_path, "hardware.gpus=3", "training.prompts_per_step=6"), tmp_path / "run"
        )
    sizes = ["hardware.gpus=8", "training.prompts_per_step=8"]
    sizes += [f"domains.{name}.expert.prompts_per_step=4" for name in ("math", "code")]
    with refuses("`teacher_more`", "2 prompts of math", "4 rollouts", "8 devices", "samples_per_prompt"):
        open_run(polished_config(tmp_path, MORE, *sizes), tmp_path / "run")
    with refuses("hardware.tokens_per_device", "sequence of polish", "9024"):
        open_run(polished_config(tmp_path, "polish.max_response_tokens=9000",
                                 "hardware.tokens_per_device=4096"), tmp_path / "run")  # fmt: skip


# -------------------------------------------------------------------------------------------- stages


@pytest.fixture
def trainer(monkeypatch):
    return stage_trainer(monkeypatch)


def trained(tmp_path, *overrides):
    run = open_polished(tmp_path, *overrides)
    teachers = experts(tmp_path)
    train_student(run.folder, teachers, Cluster())
    train_baselines(run.folder, teachers, run.found.routed, Cluster())
    return run.folder


def test_the_polish_starts_where_distillation_ended_and_both_students_are_kept(tmp_path, trainer):
    folder = trained(tmp_path, "baselines=[opd]")
    assert trainer.names == ["merge", "polish", "opd"]
    assert trainer.jobs[1].model_path == str(folder.path / "distilled")
    assert added(folder.distilled, STUDENT) == {1} and added(folder.student, STUDENT) == {2}
    assert added(folder.baseline("opd"), STUDENT) == {1}, "a baseline of distillation is not polished"
    models = {model.name: model for model in folder.models(experts(tmp_path))}
    assert list(models) == ["base", "math-teacher", "code-teacher", "student", "distilled", "opd"]
    assert models["distilled"].role == "baseline"
    assert [line["task_reward"] for line in folder.read_metrics("polish")] == [0.5, 0.5]
    assert {"merge", "polish"} <= folder.measured.wall_seconds.keys()
    assert list(curves(folder, [])) == ["merge", "polish", "baseline opd"]
    rows = {use.training: use for use in prompt_use(folder).trainings}["polish"]
    assert rows.trained == dict(rows.planned) == {"math": 4, "code": 4} and rows.steps == 2
    found = provenance(folder, [])
    assert found["polish"].startswith("steps 2, prompts_per_step 4, samples_per_prompt 2, learning_rate 0.25")
    assert found["distilled student weights"] != found["student weights"]


@pytest.mark.parametrize("stage", ["merge", "polish", "math-teacher-more", "code-teacher-more"])
def test_a_run_that_is_killed_in_any_stage_continues_and_redoes_none(tmp_path, trainer, stage):
    order = ["merge", "polish", "math-teacher-more", "code-teacher-more"]
    trainer.killed_in = stage
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, MORE)
    trainer.killed_in = None
    folder = trained(tmp_path, MORE)
    at = order.index(stage)
    assert trainer.names == [*order[: at + 1], *order[at:]]
    assert [line["step"] for line in folder.read_metrics(stage)] == [1, 2]
    trained(tmp_path, MORE)
    assert len(trainer.jobs) == 5, "a finished stage is never done again"
    assert added(folder.student, STUDENT) == {2}


def test_another_polish_is_another_merge_but_may_be_stored_more_often(tmp_path):
    open_polished(tmp_path)
    for override in ("polish.steps=3", "polish=null", "polish.verl={algorithm.gamma: 0.9}"):
        with refuses("holds another merge", "polish"):
            open_polished(tmp_path, override)
    open_polished(tmp_path, "polish.verl={trainer.rollout_data_dir: /tmp/x}")
    open_polished(tmp_path, MORE)  # a baseline may come later


def test_a_run_that_is_distilled_alone_is_not_finished(tmp_path, trainer):
    trainer.killed_in = "polish"
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path)
    folder = open_polished(tmp_path).folder
    assert folder.distilled.exists() and not folder.student.exists()
    with pytest.raises(ConfigError):
        evaluate_run(folder.path)


def test_a_reward_that_changed_meanwhile_is_refused(tmp_path, trainer):
    """The polish and its control must not be trained on two rewards."""
    folder = open_polished(tmp_path).folder
    for what in ("polish", "baseline `teacher_more`"):
        counts = folder.path / "prompts" / "counts.json"
        kept = counts.read_text()
        counts.write_text(json.dumps(json.loads(kept) | {"rewards": {"math": "another"}}))
        with refuses(what, "reward of domain 'math'", "another"):
            trained(tmp_path, MORE)
        counts.write_text(kept)
        trained(tmp_path)


# -------------------------------------------------------------------------------------- teacher_more


def test_each_expert_is_trained_on_with_the_polishs_own_rows(tmp_path, trainer):
    folder = trained(tmp_path, MORE)
    teachers = {teacher.domain: teacher for teacher in experts(tmp_path)}
    polish, controls = trainer.jobs[1], trainer.jobs[2:]
    for job, domain in zip(controls, ("math", "code"), strict=True):
        assert job.name == f"{domain}-teacher-more" and job.model_path == teachers[domain].model_path
        assert (job.steps, job.prompts_per_step, job.samples_per_prompt) == (2, 2, 2)
        own = [row for row in rows_of(polish.train_file) if row[0] == domain]
        assert rows_of(job.train_file) == own
        assert added(folder.teacher_more(domain), Path(teachers[domain].model_path)) == {1}
        assert (job.learning_rate, job.seed) == (polish.learning_rate, polish.seed)
    use = polish_use(folder)
    assert {domain: control.rollouts for domain, control in use.controls.items()} == dict(use.rollouts)
    found = {model.name: model for model in folder.models(experts(tmp_path))}
    assert found["math-teacher-more"].is_asked("math") and not found["math-teacher-more"].is_asked("code")
    assert found["distilled"].is_asked("code") and found["math-teacher"].is_asked("code")


def test_its_learning_rate_is_its_own_and_another_one_trains_anew(tmp_path, trainer):
    trained(tmp_path, MORE)
    folder = trained(tmp_path, "baselines=[{kind: teacher_more, learning_rate: 0.5}]")
    assert trainer.names[2:] == ["math-teacher-more", "code-teacher-more"] * 2
    assert [job.learning_rate for job in trainer.jobs[2:]] == [0.25, 0.25, 0.5, 0.5]
    (baseline,) = folder.config.baselines
    assert fields(folder.controls()[0], baseline)["learning_rate"] == 0.5


@pytest.mark.parametrize(
    ("rows", "steps", "expected"), [(8, 2, (2, 4)), (9, 2, (2, 5)), (21, 20, (11, 2)), (3, 5, (3, 1))]
)
def test_rows_that_steps_do_not_divide_give_the_teacher_less_than_a_step_more(rows, steps, expected):
    taken, size = steps_of(rows, steps)
    assert (taken, size) == expected and 0 <= taken * size - rows < size and taken <= steps


def test_a_given_expert_has_no_control_and_the_report_says_so(tmp_path, trainer):
    given = json.dumps({"kind": "model", "path": str(STUDENT)})
    folder = trained(tmp_path, MORE, f"domains.code.expert={given}")
    assert trainer.names == ["merge", "polish", "math-teacher-more"]
    assert list(polish_use(folder).controls) == ["math"]


def test_a_control_without_what_it_controls_is_refused(tmp_path):
    with refuses("baselines", "`teacher_more`", "`polish`"):
        polished_config(tmp_path, MORE, "polish=null")
    given = json.dumps({"kind": "model", "path": str(STUDENT)})
    with refuses("baselines", "`teacher_more`", "`rl`", "math model, code model"):
        polished_config(tmp_path, MORE, f"domains.math.expert={given}", f"domains.code.expert={given}")


# ---------------------------------------------------------------------------------------------- plan


def test_the_plan_shows_what_is_left_of_each_stage(tmp_path, trainer):
    def stages():
        plan = make_plan(polished_config(tmp_path, MORE), tmp_path / "run")
        return {stage.name: (stage.state, stage.steps, stage.rollouts) for stage in plan.stages}

    fresh = stages()
    assert list(fresh)[2:6] == ["merge", "polish", "teacher_more math", "teacher_more code"]
    assert fresh["polish"] == ("to do", 2, 16) and fresh["teacher_more code"] == ("to do", 2, 8)
    trainer.killed_in = "polish"
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, MORE)
    assert stages()["merge"] == ("done", 0, 0)
    assert stages()["polish"] == ("continues at step 1", 1, 8)
    trainer.killed_in = "code-teacher-more"
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, MORE)
    assert stages()["polish"] == stages()["teacher_more math"] == ("done", 0, 0)
    assert stages()["teacher_more code"] == ("continues at step 1", 1, 4)


def test_its_models_and_checkpoints_are_counted(tmp_path):
    def parts(*overrides):
        run = open_run(polished_config(tmp_path, *overrides), tmp_path / f"run{len(overrides)}")
        models, config = run.found.fingerprints, run.folder.config
        held = device_memory(
            config, models, 10**11, True, run.folder.config.polish and {"math": 4, "code": 4}
        )
        plan = make_plan(polished_config(tmp_path, *overrides), tmp_path / "plan")
        return disk_parts(config, models), [one.title for one in held], plan.memory[-1].phases.keys()

    size = sum(value.size for value in weights_of(STUDENT).values())
    without, polished, controlled = parts("polish=null"), parts(), parts(MORE, "name=more")
    assert polished[0]["models"] - without[0]["models"] == 4 * size
    assert controlled[0]["models"] - polished[0]["models"] == 2 * 4 * size
    assert polished[0]["checkpoints"] - without[0]["checkpoints"] == 2 * 12 * size
    assert "polish" not in without[1] and "polish" in polished[1]
    assert any(title.startswith("teacher_more") for title in controlled[1])
    assert "polish" in polished[2] and "polish" not in without[2]


def test_a_sweep_keeps_opd_beside_polished_students(tmp_path):
    from merging.sweep import grid

    def kinds(*overrides):
        runs = grid(polished_config(tmp_path, "baselines=[opd]", *overrides), [1.0], 1, tmp_path / "sweep")
        return [baseline.kind for baseline in runs[0].loaded.config.baselines]

    assert kinds() == ["opd"] and kinds("polish=null") == []
    assert POLISH["steps"] == 2
