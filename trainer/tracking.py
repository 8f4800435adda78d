"""Trackers that verl writes every step's metrics to, beside the run's own files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LOGGER_ROOT = "VERL_FILE_LOGGER_ROOT"
"""Environment variable of verl's file logger: the folder `verl_metrics` of the run."""
PROJECT = "protege"
"""verl's project name, which is also that on W&B."""
ENVIRONMENT_KEY = "protege.environment"
"""Key in verl's config: environment variables of the process that tracks."""


def tracking_keys(trackers: Sequence[str], training: str) -> dict[str, Any]:
    """Keys of verl's config for one training: its loggers, and where they write.

    TensorBoard's events go to `tensorboard/<training>` of the run, W&B's to `wandb/`, offline unless
    `WANDB_MODE` is set. A training that is continued goes on in the same folder of events.
    """
    run = Path(os.environ[LOGGER_ROOT]).parent
    environment = {}
    if "tensorboard" in trackers:
        environment["TENSORBOARD_DIR"] = str(run / "tensorboard" / training)
    if "wandb" in trackers:
        environment |= {"WANDB_DIR": str(run), "WANDB_MODE": os.environ.get("WANDB_MODE", "offline")}
        environment["WANDB_SILENT"] = "true"
    return {"trainer.logger": ["file", *trackers], ENVIRONMENT_KEY: environment}
