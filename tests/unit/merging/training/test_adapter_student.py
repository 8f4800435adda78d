"""A run whose student is a LoRA adapter: what each stage trains and keeps, also killed and continued."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from common.errors import ConfigError
from configs.schema import Hardware
from merging.reports.reporting import notes, provenance
from merging.run import train_baselines, train_student
from merging.state.adapted import FULL
from merging.state.teacher import Teacher
from merging.training.validation import export_kept
from teachers.models.adapters import fingerprint, is_adapter, weights_sha256
from teachers.registry.merged import full_model
from teachers.registry.opening import open_registry
from tests.helpers.lora_adapters import write_adapter
from tests.helpers.messages import problems_of, refuses, say_each
from tests.helpers.model_copies import weights_of
from tests.helpers.paths import STUDENT
from tests.helpers.polished_runs import open_polished, polished_config, stage_trainer
from tests.helpers.stand_in_trainers import FakeCluster
from tests.helpers.validations import validated
from tests.helpers.verl_checkpoints import lora_weights, write_checkpoint
from trainer.job import Lora, TrainingJob
from trainer.validation import Validation, keep_best, remember

LORA, ALPHA = "training.lora_rank=4", "training.lora_alpha=12"
AS_ADAPTERS = [f"domains.{name}.expert.lora_rank=2" for name in ("math", "code")]
ALL = "baselines=[opd, {kind: grpo, samples_per_prompt: 2}, opd_more, teacher_more, average]"
ORDER = ["merge", "polish", "opd", "grpo", "opd_more", "math-teacher-more", "code-teacher-more"]


class Cluster(FakeCluster):
    def close(self):
        pass


@pytest.fixture
def trainer(monkeypatch):
    return stage_trainer(monkeypatch)


def experts(tmp_path, run_folder) -> list[Teacher]:
    """Adapters, as a build would leave them."""
    registry, found = open_registry(run_folder.config.registry), []
    for seed, name in enumerate(("math", "code")):
        folder = tmp_path / f"{name}_adapter"
        if not folder.exists():
            write_adapter(folder, seed, rank=2, alpha=4)
        full = full_model(STUDENT, folder, registry)
        found.append(Teacher(name, full, weights_sha256(folder), None, str(folder)))
    return found


def trained(tmp_path, *overrides):
    run = open_polished(tmp_path, *AS_ADAPTERS, *overrides)
    teachers = experts(tmp_path, run.folder)
    train_student(run.folder, teachers, Cluster())
    train_baselines(run.folder, teachers, run.found.routed, Cluster())
    return run.folder


def trainings(adapter) -> int:
    """How often the stand-in has trained it: each time adds 1 to the second factors, which began at 0."""
    weights = load_file(adapter / "adapter_model.safetensors")
    (found,) = {float(value.mean()) for name, value in weights.items() if ".lora_B." in name}
    return round(found)


def test_every_stage_trains_one_adapter_on_the_base_student(tmp_path, trainer):
    folder = trained(tmp_path, LORA, ALPHA, ALL)
    assert trainer.names == ORDER
    assert {job.model_path for job in trainer.jobs} == {folder.config.student}
    new, went_on = Lora(4, 12), Lora(4, 12, str(folder.distilled))
    assert [job.lora for job in trainer.jobs[:5]] == [new, went_on, new, new, went_on]
    assert [job.lora for job in trainer.jobs[5:]] == [
        Lora(2, 4, str(tmp_path / f"{name}_adapter")) for name in ("math", "code")
    ]
    made = {"student": 2, "distilled": 1, "baselines/opd": 1, "baselines/grpo": 1, "baselines/opd_more": 2}
    assert {name: trainings(folder.path / name) for name in made} == made
    settings = fingerprint(folder.student).settings
    assert (settings["r"], settings["lora_alpha"]) == (4, 12), "polished, it is still one adapter of its rank"
    assert not (folder.path / FULL).exists()


def test_what_is_evaluated_is_adapter_and_base_added(tmp_path, trainer):
    folder = trained(tmp_path, LORA, ALL)
    models = {model.name: model.path for model in folder.models(experts(tmp_path, folder))}
    assert {"student", "distilled", "opd", "grpo", "opd_more", "math-teacher-more", "average"} < models.keys()
    assert not any(is_adapter(path) for path in models.values())
    base, adapter = weights_of(STUDENT), load_file(folder.student / "adapter_model.safetensors")
    name = "model.layers.1.mlp.up_proj"
    a_QI, b_OQ = (adapter[f"base_model.model.{name}.lora_{side}.weight"] for side in "AB")
    found = weights_of(models["student"])
    assert np.abs(found[f"{name}.weight"] - base[f"{name}.weight"] - 2 * b_OQ @ a_QI).max() < 1e-5
    assert np.array_equal(found["model.embed_tokens.weight"], base["model.embed_tokens.weight"])
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "home" / "merged").iterdir()}
    assert models == {model.name: model.path for model in folder.models(experts(tmp_path, folder))}
    assert made == {path: path.stat().st_mtime_ns for path in made}, "made once"


@pytest.mark.parametrize("stage", ["merge", "polish", "opd_more", "math-teacher-more"])
def test_a_run_that_is_killed_in_any_stage_continues_and_redoes_none(tmp_path, trainer, stage):
    trainer.killed_in = stage
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, LORA, ALL)
    trainer.killed_in = None
    folder = trained(tmp_path, LORA, ALL)
    at = ORDER.index(stage)
    assert trainer.names == [*ORDER[: at + 1], *ORDER[at:]]
    trained(tmp_path, LORA, ALL)
    assert len(trainer.jobs) == len(ORDER) + 1, "a finished stage is never done again"
    assert trainings(folder.student) == 2


def test_the_full_model_is_written_where_it_is_asked_for_also_later(tmp_path, trainer):
    before = trained(tmp_path, LORA)
    folder = trained(tmp_path, LORA, "training.full_model=true")
    assert trainer.names == ["merge", "polish"], "nothing is trained again"
    found, expected = weights_of(folder.path / FULL), weights_of(before.full(before.student))
    assert all(np.array_equal(found[name], value) for name, value in expected.items())
    assert (folder.path / FULL / "tokenizer.json").exists() and is_adapter(folder.student)
    for override in ("training.lora_rank=8", "training.lora_alpha=9"):
        with refuses("holds another merge", "training"):
            open_polished(tmp_path, *AS_ADAPTERS, LORA, override)


def test_report_and_provenance_say_what_the_student_is(tmp_path, trainer):
    folder = trained(tmp_path, LORA, "baselines=[opd]")
    assert provenance(folder, [])["student weights"] == (
        f"{weights_sha256(folder.student)} (a LoRA adapter of rank 4 and alpha 8 on the base student)"
    )
    (note,) = [note for note in notes(folder) if "LoRA" in note]
    assert note.startswith("the student was trained as a LoRA adapter of rank 4 and alpha 8 on the base")
    assert note.endswith("so was `opd`")
    (tmp_path / "whole").mkdir()
    whole = open_polished(tmp_path / "whole").folder
    assert not [note for note in notes(whole) if "LoRA" in note]


@pytest.mark.parametrize(
    ("accuracies", "expected"), [((0.5, 0.2, 0.1), 0), ((0.1, 0.5, 0.2), 1), ((0.1, 0.2, 0.5), 2)]
)
def test_the_best_validations_adapter_is_kept_also_the_one_before_step_1(tmp_path, accuracies, expected):
    asked = Validation(tmp_path / "rows", 1, 1, 0, 2, keep_best=True)
    job = TrainingJob(
        name="merge", model_path=str(STUDENT), train_file=tmp_path / "rows", folder=tmp_path / "train",
        steps=2, prompts_per_step=1, samples_per_prompt=1, learning_rate=1.0, max_prompt_tokens=8,
        max_response_tokens=8, save_every=1, seed=0, hardware=Hardware(device="cpu"),
        reward_function=("m", "f"), lora=Lora(4, 8), validation=asked,
    )  # fmt: skip
    for step, accuracy in enumerate(accuracies):
        if step:
            trained_ones = {
                name: value if ".lora_A." in name else value * 0 + step
                for name, value in lora_weights(4).items()
            }
            write_checkpoint(job.checkpoints, step, [trained_ones])
        else:
            job.folder.mkdir()
        remember(job.folder, validated(step, accuracy))
        keep_best(job.folder, job.checkpoints)
    export_kept(job, tmp_path / "student")
    assert trainings(tmp_path / "student") == expected
    registry = open_registry(tmp_path / "home")
    full = weights_of(Path(full_model(STUDENT, tmp_path / "student", registry)))
    changed = any(not np.array_equal(full[name], value) for name, value in weights_of(STUDENT).items())
    assert changed == bool(expected), "the one before step 1 is the base"


# ------------------------------------------------------------------------------------------ refusals


def test_options_of_an_adapter_without_one_are_refused(tmp_path):
    for option, said in (("lora_alpha=8", "8"), ("full_model=true", "true")):
        name = option.split("=")[0]
        say_each(problems_of(polished_config, tmp_path, f"training.{option}"),
                 (f"training.{name}: {said}", "training.lora_rank", f"leave {name} out"))  # fmt: skip
    for option in ("lora_rank=0", "lora_alpha=0", "lora_rank=1.5"):
        with pytest.raises(ConfigError):
            polished_config(tmp_path, LORA, f"training.{option}")


@pytest.mark.parametrize("start", ["average", {"kind": "model", "path": str(STUDENT)}])
def test_another_start_than_the_student_is_refused(tmp_path, start):
    with refuses("training.lora_rank", "4", "training.start", "student's own weights"):
        polished_config(tmp_path, LORA, f"training.start={json.dumps(start)}")


def test_a_control_that_is_a_full_model_is_refused(tmp_path):
    with refuses("baselines", "`teacher_more`", "training.lora_rank", "'math'", "domains.math.expert"):
        polished_config(tmp_path, LORA, "baselines=[teacher_more]")
    polished_config(tmp_path, LORA, *AS_ADAPTERS, "baselines=[teacher_more]")
    polished_config(tmp_path, LORA, "baselines=[opd_more]")
