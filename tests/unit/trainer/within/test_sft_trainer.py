"""Pool and workers of a supervised fine-tuning: verl's own, but for Ray's CPUs and the worker's class."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import verl.single_controller.ray as controller
from verl.trainer.sft_trainer_ray import SFTTrainer
from verl.workers.engine_workers import TrainingWorker

from configs.schema import Hardware
from tests.helpers.paths import STUDENT
from trainer.processes.devices import CPUS_A_DEVICE
from trainer.sft import SftJob, sft_config
from trainer.within import sft_trainer
from trainer.within.sft_trainer import FewCpusTrainer
from trainer.within.sft_worker import SftWorker


class Workers:
    """Stands for verl's worker group: keeps what it is made of and what is called."""

    def __init__(self, resource_pool, ray_cls_with_init, **more):
        self.pool, self.worker, self.more = resource_pool, ray_cls_with_init, more
        self.calls = []

    def set_loss_fn(self, loss_fn):
        self.calls.append(("set_loss_fn", loss_fn.func, loss_fn.keywords))

    def reset(self):
        self.calls.append(("reset",))


class WithoutRows:
    """Leaves out of a trainer's making what reads rows and checkpoints."""

    def _build_dataset(self):
        pass

    def _build_dataloader(self):
        pass

    def _build_ckpt_handler(self):
        self.ckpt_handler = SimpleNamespace(load_checkpoint=lambda: 0)


@pytest.fixture
def built(monkeypatch):
    """The worker group that a trainer class makes for a job with these settings of verl's."""
    monkeypatch.setattr(controller, "RayWorkerGroup", Workers)
    monkeypatch.setattr(sft_trainer, "RayWorkerGroup", Workers)

    def built(kind, **settings) -> Workers:
        job = SftJob(
            name="sft", model_path=str(STUDENT), train_file=Path("rows"), folder=Path("work"), steps=1,
            rows_per_step=2, learning_rate=1e-3, save_every=1, seed=1,
            hardware=Hardware(device="cpu", gpus=2), verl_settings=settings,
        )  # fmt: skip
        return type("WithoutRows", (WithoutRows, kind), {})(sft_config(job, "metrics")).training_client

    return built


def told(workers: Workers) -> SimpleNamespace:
    """All that differs in nothing but the pool's CPUs and the worker's class."""
    config = workers.worker.kwargs["config"]
    return SimpleNamespace(
        devices=workers.pool.store, more=workers.more, calls=workers.calls, kwargs=set(workers.worker.kwargs),
        engine=config.engine_config, optimizer=config.optimizer_config, checkpoint=config.checkpoint_config,
        model=(config.model_type, config.model_config.path), profiler=config.profiler_config,
    )  # fmt: skip


PROFILED = {"trainer.profile_interval": [1, 2]}


@pytest.mark.parametrize("settings", [{}, PROFILED], ids=["plain", "profiled"])
def test_only_the_cpus_and_the_worker_differ_from_verls_own(built, settings):
    ours, verls = built(FewCpusTrainer, **settings), built(SFTTrainer, **settings)
    assert told(ours) == told(verls)
    assert ("profile_steps" in ours.more) == bool(settings)
    assert (ours.pool.max_colocate_count, verls.pool.max_colocate_count) == (CPUS_A_DEVICE, 10)
    classes = [group.worker.cls.__ray_metadata__.modified_class for group in (ours, verls)]
    assert issubclass(classes[0], SftWorker) and not issubclass(classes[1], SftWorker)
    assert issubclass(classes[1], TrainingWorker)


def test_verls_modules_stay_as_they_are(built):
    pool = controller.RayResourcePool
    built(FewCpusTrainer)
    from verl.trainer import sft_trainer_ray

    assert controller.RayResourcePool is pool and sft_trainer_ray.TrainingWorker is TrainingWorker
