"""verl's SFT trainer with workers that know our engines, and devices that leave Ray's CPUs to others."""

from __future__ import annotations

from functools import partial
from typing import Any

import ray
from omegaconf import OmegaConf
from verl.single_controller.ray import RayClassWithInitArgs, RayResourcePool, RayWorkerGroup
from verl.trainer.sft_trainer_ray import SFTTrainer
from verl.workers.config import TrainingWorkerConfig
from verl.workers.utils.losses import sft_loss

from trainer.processes.devices import CPUS_A_DEVICE
from trainer.within.sft_worker import SftWorker


class FewCpusTrainer(SFTTrainer):
    """Reserves as many of Ray's CPUs beside every device as `main_ppo` does.

    verl's SFT trainer takes the pool's default of ten: Ray would wait for ever on 8 devices with 64 cores.
    """

    resource_pool: RayResourcePool

    def _build_engine(self) -> None:
        """As verl's own method, but for the pool's CPUs and the worker's class, which it names itself."""
        loss: Any = sft_loss  # which reads no configuration, though it declares one
        self.loss_fn = partial(loss, config=None)
        config = TrainingWorkerConfig(
            model_type="language_model",
            model_config=self.model_config,
            engine_config=self.engine_config,
            optimizer_config=self.optimizer_config,
            checkpoint_config=self.checkpoint_config,
            profiler_config=self.profiler_config,
        )
        where = self.config.trainer
        processes = [where.n_gpus_per_node] * where.nnodes
        self.resource_pool = RayResourcePool(processes, max_colocate_count=CPUS_A_DEVICE)
        worker: Any = RayClassWithInitArgs(ray.remote(SftWorker), config=config)
        self.training_client: Any = RayWorkerGroup(
            self.resource_pool, worker, device_name=where.device, **self._profiling()
        )
        self.training_client.set_loss_fn(loss_fn=self.loss_fn)
        self.training_client.reset()

    def _profiling(self) -> dict[str, Any]:
        """What the workers are told where the config asks for a profile of some steps."""
        if self.start_profile_step == -1:
            return {}
        told: dict[str, Any] = {
            "profile_steps": list(range(self.start_profile_step, self.end_profile_step + 1))
        }
        if OmegaConf.select(self.config.profiler, "tool") == "nsys":
            options = OmegaConf.select(
                self.config.global_profiler.global_tool_config.nsys, "worker_nsight_options"
            )
            told["worker_nsight_options"] = OmegaConf.to_container(options)
        return told
