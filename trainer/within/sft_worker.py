"""The process of one device in a supervised fine-tuning."""

from __future__ import annotations

from typing import Any

from verl.utils.import_utils import import_external_libs
from verl.workers.engine_workers import TrainingWorker


class SftWorker(TrainingWorker):
    """verl's worker, which loads what the model's configuration names.

    verl loads `external_lib` where it builds that configuration. Its SFT trainer builds it in a process of
    its own and sends it to the workers ready made, so that they would not know the engines for a CPU.
    """

    def __init__(self, config: Any) -> None:
        import_external_libs(config.model_config.external_lib)
        super().__init__(config)
