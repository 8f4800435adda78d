"""A build whose trainer needs no verl, to be killed at any moment in a process of its own."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

STEPS = 30
STEP_SECONDS = 0.03


def build(root: str, training: Callable[[], None], trained: Callable[[], None]) -> None:
    """Builds one expert in the registry at `root`.

    Calls `training` when it begins to train and `trained` when only the storing is left.
    """
    import torch

    import teachers.build as module
    from teachers.registry.local import Registry
    from tests.helpers.expert_orders import order
    from tests.helpers.paths import STUDENT

    torch.set_num_threads(1)

    def train(job, cluster, on_step):
        training()
        _train(job)
        trained()

    module.train = train
    wanted = order(STUDENT, {"steps": STEPS, "save_every": 1})
    module.build_expert(Registry(Path(root)), wanted, lambda: None, lambda step, metrics: None)


def _train(job) -> None:
    """Leaves in a job's folder what `trainer.run.train` and verl leave there, file by file.

    The weights of a step are a function of those of the step before, so that a build which lost or repeated a
    step would end with others.
    """
    import torch

    from tests.helpers.model_copies import weights_of
    from tests.helpers.paths import STUDENT
    from tests.helpers.verl_checkpoints import write_checkpoint
    from trainer.run import last_checkpoint, mend_tracker

    mend_tracker(job.checkpoints)  # as `trainer.run.train` does before a step is written
    done = last_checkpoint(job.checkpoints)
    if done == job.steps:
        return
    with (job.folder / "attempts").open("a") as file:
        file.write(f"{time.time()}\n")
    if done:
        weights = torch.load(_file(job, done))
    else:
        weights = {name: torch.from_numpy(value.copy()) for name, value in weights_of(STUDENT).items()}
    for step in range(done + 1, job.steps + 1):
        time.sleep(STEP_SECONDS)
        weights = {name: 0.5 * value + step for name, value in weights.items()}
        with (job.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, "time": time.time(), "critic/score/mean": step / 10}) + "\n")
        if _file(job, step).parent.exists():  # of a kill between weights and tracker
            shutil.rmtree(_file(job, step).parent)
        write_checkpoint(job.checkpoints, step, [weights])


def _file(job, step: int) -> Path:
    return job.checkpoints / f"global_step_{step}" / "actor" / "model_world_size_1_rank_0.pt"
