"""The baseline `grpo`: its rows and job by hand, what is refused, and a training from start to report."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

from common.errors import ConfigError, RunFailed
from configs import schema
from configs.blocks.baselines import GrpoBaseline
from eval.report.sections.curves import panels
from merging.baselines.grpo import baseline_job
from merging.reports.reporting import curves, notes, provenance
from merging.run import scheduled, train_baselines
from merging.state.baseline_record import is_made
from merging.training import rewarded
from merging.training.metrics import grpo_metrics
from teachers.build import expert_job
from tests.helpers.expert_orders import order
from tests.helpers.grpo_runs import PAIRS, grpo_config
from tests.helpers.messages import refuses, say_each
from tests.helpers.model_copies import weights_of
from tests.helpers.opened_runs import open_run
from tests.helpers.paths import DEMO, STUDENT
from tests.helpers.stand_in_trainers import FakeCluster, GrpoTrainer
from trainer.job import Lora
from trainer.run import last_checkpoint

SLOWER = "baselines=[{kind: grpo, samples_per_prompt: 2, learning_rate: 0.25}]"
FOURS = "baselines=[{kind: grpo, samples_per_prompt: 4}]"


@pytest.fixture
def opened(tmp_path):
    """Opens tmp_path/run and writes the merge's rows; returns its folder and all prompts."""

    def opened(*overrides, **more):
        run = open_run(grpo_config(tmp_path, *overrides, **more), tmp_path / "run").written()
        return run.folder, run.found.routed

    return opened


def made_job(folder, routed):
    (baseline,) = folder.config.baselines
    rows = scheduled(folder.config, routed, folder.config.grpo_prompts_per_step(baseline))
    return baseline_job(folder.config, baseline, rows, folder.path / "grpo")


def read(file):
    return pq.read_table(file).to_pylist()


def of_domain(rows, name):
    return [row["extra_info"]["id"] for row in rows if row["teacher"] == name]


# --------------------------------------------------------------------------------------------- rows


def test_every_step_has_as_many_rollouts_as_the_merges_and_each_domain_its_share(opened):
    folder, routed = opened()
    job, merge = made_job(folder, routed), read(folder.prompts_file)
    rows = read(job.train_file)
    assert (job.steps, job.prompts_per_step, job.samples_per_prompt) == (2, 8 // 2, 2)
    assert len(rows) == 2 * 4
    assert len(rows) * job.samples_per_prompt == len(merge) * folder.config.training.samples_per_prompt == 16
    for step in range(2):
        assert Counter(row["teacher"] for row in rows[4 * step : 4 * step + 4]) == {"math": 2, "code": 2}


def test_a_domain_that_is_left_over_rotates(opened):
    """Four prompts a step and three domains: two of one domain, another one each step."""
    folder, routed = opened(PAIRS, "training.steps=3", domains=("math", "code", "logic"))
    rows = read(made_job(folder, routed).train_file)
    steps = [Counter(row["teacher"] for row in rows[4 * step : 4 * step + 4]) for step in range(3)]
    assert steps == [
        {"math": 2, "code": 1, "logic": 1},
        {"math": 1, "code": 2, "logic": 1},
        {"math": 1, "code": 1, "logic": 2},
    ]


def test_every_row_is_judged_by_its_own_domains_reward(opened):
    folder, routed = opened()
    job = made_job(folder, routed)
    rows = read(job.train_file)
    assert {(row["teacher"], row["extra_info"]["reward"]) for row in rows} == {
        ("math", "exact"),
        ("code", "number"),
    }
    answers = {item.prompt.id: item.prompt.answer for item in routed}
    assert all(
        json.loads(row["reward_model"]["ground_truth"]) == answers[row["extra_info"]["id"]] for row in rows
    )
    assert job.reward_function == ("teachers.rewards", "compute_score")


@pytest.mark.parametrize("samples, fewer", [(1, True), (4, False)])
def test_the_prompts_are_the_merges_in_the_merges_order(opened, samples, fewer):
    """Balanced to two prompts a domain; with fewer prompts a step it goes less far in the same order."""
    folder, routed = opened(PAIRS, f"training.samples_per_prompt={samples}", "training.prompts_per_step=4")
    rows, merge = read(made_job(folder, routed).train_file), read(folder.prompts_file)
    for name in ("math", "code"):
        ours, theirs = of_domain(rows, name), of_domain(merge, name)
        assert len(set(ours)) == 2
        assert (len(ours) < len(theirs)) == fewer
        shared = min(len(ours), len(theirs))
        assert ours[:shared] == theirs[:shared]


# ---------------------------------------------------------------------------------------------- job

CHANGES = {
    "training.steps=3": {"steps": 3},
    "training.prompts_per_step=16": {"prompts_per_step": 8},
    "training.samples_per_prompt=2": {"prompts_per_step": 8},
    FOURS: {"prompts_per_step": 2, "samples_per_prompt": 4},
    "training.learning_rate=0.5": {"learning_rate": 0.5},
    SLOWER: {"learning_rate": 0.25},
    "training.warmup_steps=3": {"warmup_steps": 3},
    "training.schedule=cosine": {"schedule": "cosine"},
    "training.max_prompt_tokens=25": {"max_prompt_tokens": 25},
    "training.max_response_tokens=17": {"max_response_tokens": 17},
    "training.weight_decay=0.5": {"weight_decay": 0.5},
    "training.gradient_clip=0.5": {"gradient_clip": 0.5},
    "training.loss_aggregation=token-mean": {"loss_aggregation": "token-mean"},
    "training.save_every=3": {"save_every": 3},
    "training.seed=1": {"seed": 1},
    "training.lora_rank=4": {"lora": Lora(4, 8)},
    "training.too_long=drop": {},  # decides which prompts there are
    "training.start=average": {},  # of the merge and its own trainings at another lambda
    "training.overlap=one_step": {},  # nothing would weigh its policy gradient by who sampled the token
    "chat_template={enable_thinking: false}": {"chat_template": {"enable_thinking": False}},
    "hardware.tokens_per_device=512": {
        "hardware": schema.Hardware(device="cpu", tokens_per_device=512),
    },
}
OF_VALIDATIONS = {"validate_every", "validation_samples", "validation_limit", "keep", "patience"}
"""Of the merge and its own trainings at another lambda."""
OF_ADAPTERS = {"lora_alpha", "full_model"}
"""Read with `lora_rank` only."""


def job_of(tmp_path, *overrides):
    """The job's fields, without a run."""
    config = grpo_config(tmp_path, *overrides).config
    (baseline,) = config.baselines
    job = baseline_job(config, baseline, order(STUDENT).prompts, tmp_path / "grpo")
    return {field.name: getattr(job, field.name) for field in dataclasses.fields(job)}


def test_every_option_changes_its_fields_and_no_other(tmp_path):
    plain = job_of(tmp_path)
    for override, expected in CHANGES.items():
        found = job_of(tmp_path, PAIRS, override)
        assert {name: value for name, value in found.items() if value != plain[name]} == expected, override
    changed = {override.split("=")[0].removeprefix("training.") for override in CHANGES}
    assert schema.Training.model_fields.keys() <= changed | OF_VALIDATIONS | OF_ADAPTERS
    alone = job_of(tmp_path, PAIRS, "training.lora_rank=4")
    for override, lora in (("lora_alpha=9", Lora(4, 9)), ("full_model=true", Lora(4, 8))):
        found = job_of(tmp_path, PAIRS, "training.lora_rank=4", f"training.{override}")
        assert found == {**alone, "lora": lora}


def test_no_option_of_validations_changes_anything(tmp_path):
    prompts = f"domains.math.validation={{kind: file, path: {DEMO / 'math.validation.jsonl'}}}"
    options = {
        "validate_every": 1,
        "validation_samples": 2,
        "validation_limit": 3,
        "keep": "best",
        "patience": 1,
    }
    assert options.keys() == OF_VALIDATIONS
    overrides = (f"training.{name}={value}" for name, value in options.items())
    assert job_of(tmp_path, PAIRS, prompts, *overrides) == job_of(tmp_path, PAIRS)


def test_what_the_merges_objective_reads_changes_nothing(tmp_path):
    plain = job_of(tmp_path)
    for override in ("objective.reward_scale=2", "domains.math.objective={weight: 3}"):
        assert job_of(tmp_path, PAIRS, override) == plain


def test_it_is_an_experts_job_on_all_domains(tmp_path):
    """With one domain and an expert's settings it is that expert's job, but for its name."""
    wanted = order(STUDENT)
    expert = expert_job(wanted, tmp_path / "expert")
    training = {
        "steps": 4, "prompts_per_step": 2, "samples_per_prompt": 2, "learning_rate": 1e-4, "save_every": 2,
        "seed": 0, "max_response_tokens": 20, "loss_aggregation": "token-mean",
    }  # fmt: skip
    config = wanted.config.model_copy(update={"training": wanted.config.training.model_copy(update=training)})
    baseline = GrpoBaseline(kind="grpo", samples_per_prompt=2)
    rows = scheduled(config, wanted.prompts, config.grpo_prompts_per_step(baseline))
    job = baseline_job(config, baseline, rows, tmp_path / "expert")
    assert replace(job, name=expert.name) == expert


# ------------------------------------------------------------------------------------------ refused


@pytest.mark.parametrize(
    "overrides, size, facts",
    [
        ([], 3, ("3", "valid: 2, 4")),  # 8 / 3 prompts
        ([], 8, ("8", "valid: 2, 4")),  # one prompt for two domains
        (["training.prompts_per_step=24"], 5, ("5", "valid: 2, 3, 4, 6, 8, 12")),
        (["training.prompts_per_step=3"], 2, ("none", "training.prompts_per_step = 4", "2")),
        (["training.prompts_per_step=7"], 7, ("none", "training.prompts_per_step = 4", "2")),
    ],
)
def test_rollouts_that_make_no_whole_prompts_are_refused(tmp_path, overrides, size, facts):
    with refuses("baselines", "`grpo`", "training.prompts_per_step *", "at least 2 prompts", *facts):
        grpo_config(tmp_path, *overrides, f"baselines=[{{kind: grpo, samples_per_prompt: {size}}}]")


def test_what_a_refusal_names_as_valid_is_valid():
    for rollouts, domains in ((8, 2), (24, 2), (24, 5), (64, 3)):
        valid = []
        for size in range(2, rollouts + 2):
            try:
                prompts = GrpoBaseline(kind="grpo", samples_per_prompt=size).prompts_per_step(
                    rollouts, domains
                )
            except ValueError as error:
                message = str(error)
            else:
                assert prompts * size == rollouts and prompts >= domains
                valid.append(size)
        assert message.endswith(f"valid: {', '.join(map(str, valid))}")


def test_a_group_of_one_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="samples_per_prompt"):
        grpo_config(tmp_path, "baselines=[{kind: grpo, samples_per_prompt: 1}]")


def test_prompts_that_are_no_longer_the_merges_are_refused(opened, tmp_path, trainer):
    """The merge's rows are fixed; a baseline that is added later must not learn from other ones."""
    opened("baselines=[]")
    folder, routed = opened()
    changed = [replace(item, prompt=replace(item.prompt, answer="7")) for item in routed]
    with refuses("`grpo`", "domain 'math'", "changed"):
        train_baselines(folder, [], changed, FakeCluster())
    assert trainer.jobs == []
    train_baselines(folder, [], routed, FakeCluster())
    assert len(trainer.jobs) == 1


# ----------------------------------------------------------------------------------------- training


@pytest.fixture
def trainer(monkeypatch):
    trainer = GrpoTrainer()
    monkeypatch.setattr(rewarded, "train", trainer)
    return trainer


def added(folder):
    """By how much the exported model differs from the student."""
    base = weights_of(STUDENT)
    return {round(float((v - base[n]).mean())) for n, v in weights_of(folder.baseline("grpo")).items()}.pop()


def test_it_is_trained_once_and_shown_in_the_report(opened, trainer):
    folder, routed = opened()
    for _ in range(2):
        train_baselines(folder, [], routed, FakeCluster())
    (job,) = trainer.jobs
    assert (job.name, job.model_path, job.folder) == ("grpo", str(STUDENT), folder.path / "grpo")
    assert len(read(job.train_file)) == job.steps * job.prompts_per_step == 8
    assert added(folder) == 1
    (baseline,) = folder.config.baselines
    assert is_made(baseline, folder.baseline("grpo"))
    line = {"task_reward": 0.25, "entropy": 0.5, "length": 6.0, "finish_rate": 0.875}
    assert folder.read_metrics("grpo") == [{"step": step, **line} for step in (1, 2)]
    assert (folder.path / "metrics.grpo.jsonl").exists()
    assert "baseline grpo" in folder.measured.wall_seconds
    shown = {panel.key: panel.series[0] for panel in panels(curves(folder, []))}
    assert list(shown) == ["merge-length", "merge-finish_rate", "merge-entropy", "merge-task_reward"]
    for key, value in zip(shown, (6.0, 0.875, 0.5, 0.25), strict=True):
        series = shown[key]
        assert (series.label, series.stage, series.values) == ("all, grpo", "baseline grpo", (value, value))
    found = provenance(SimpleNamespace(config=folder.config, student=STUDENT, counts=dict), [])
    assert found["baseline grpo"] == "samples_per_prompt 2"


def test_a_stopped_training_continues(opened, trainer):
    folder, routed = opened()
    trainer.fails = True
    with pytest.raises(RunFailed):
        train_baselines(folder, [], routed, FakeCluster())
    assert not folder.baseline("grpo").exists()
    trainer.fails = False
    train_baselines(folder, [], routed, FakeCluster())
    assert [line["step"] for line in folder.read_metrics("grpo")] == [1, 2]
    first, second = trainer.jobs
    assert first == second and added(folder) == 2


def test_other_options_train_anew_and_never_continue(opened, trainer):
    folder, routed = opened()
    train_baselines(folder, [], routed, FakeCluster())
    folder, routed = opened(FOURS)
    assert not is_made(folder.config.baselines[0], folder.baseline("grpo"))
    trainer.fails = True
    with pytest.raises(RunFailed):
        train_baselines(folder, [], routed, FakeCluster())
    assert last_checkpoint(folder.path / "grpo" / "checkpoints") == 1, "the two steps of before are gone"
    trainer.fails = False
    train_baselines(folder, [], routed, FakeCluster())
    assert [job.samples_per_prompt for job in trainer.jobs] == [2, 4, 4]
    assert added(folder) == 3 and len(folder.read_metrics("grpo")) == 2
    assert is_made(folder.config.baselines[0], folder.baseline("grpo"))


def test_another_learning_rate_is_another_baseline_and_is_told_in_the_report(opened, trainer):
    folder, routed = opened()
    train_baselines(folder, [], routed, FakeCluster())
    assert notes(folder) == []
    folder, routed = opened(SLOWER)
    for _ in range(2):
        train_baselines(folder, [], routed, FakeCluster())
    assert [job.learning_rate for job in trainer.jobs] == [1e-5, 0.25] and added(folder) == 2
    say_each(notes(folder), ("baseline grpo", "learning rate 0.25", "1e-05"))
    found = provenance(SimpleNamespace(config=folder.config, student=STUDENT, counts=dict), [])
    assert found["baseline grpo"] == "samples_per_prompt 2, learning_rate 0.25"


def test_a_model_without_its_record_is_exported_again(opened, trainer):
    folder, routed = opened()
    train_baselines(folder, [], routed, FakeCluster())
    (folder.baseline("grpo") / "baseline.json").unlink()
    train_baselines(folder, [], routed, FakeCluster())
    assert len(trainer.jobs) == 1 and added(folder) == 1
    assert is_made(folder.config.baselines[0], folder.baseline("grpo"))


@pytest.mark.parametrize(
    "longest, share, expected",
    [
        (44.0, 0.25, 1.0),  # verl's share is of those as long as the longest, here below the limit
        (48.0, 0.25, 0.75),
        (None, 0.25, None),
    ],
)
def test_the_finish_rate_is_of_answers_below_the_limit(longest, share, expected):
    raw = {"response_length/max": longest, "response_length/clip_ratio": share}
    raw = {key: value for key, value in raw.items() if value is not None}
    assert grpo_metrics(3, raw, 48) == {"step": 3} | ({} if expected is None else {"finish_rate": expected})
