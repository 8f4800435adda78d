"""Whether transformers would load exactly the model in a folder.

A process of its own is asked: its imports take several times as long as all other checks, and run beside
them. `python -m teachers.models.fit` reads a folder from each line of stdin and answers with the problem.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from functools import lru_cache
from logging import CRITICAL
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.remote import first_line
from eval.grading.workers import Worker, WorkerLost, WorkerTimeout

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

LONGEST_SECONDS = 600.0
"""Reading the files of a large model from a slow disk, where two of its tensors are compared."""


def prepare() -> None:
    """Starts the process that `misfits` asks, so that its imports run beside other work."""
    _helper().start()


def misfits(folder: Path) -> str:
    """What keeps transformers from loading exactly the model in this folder; empty where nothing does.

    Asked on the device `meta`, where weights take neither memory nor time. Not of quantized weights, whose
    names are their package's.
    """
    from teachers.models.files import read_json, stamp, weight_files

    if "quantization_config" in read_json(folder / "config.json"):
        return ""
    stamps = tuple(stamp(file) for file in (folder / "config.json", *weight_files(folder)))
    return _asked(folder, stamps)


@lru_cache(maxsize=64)
def _asked(folder: Path, _stamps: tuple[tuple[str, int, int], ...]) -> str:
    try:
        return _helper().ask({"folder": str(folder.absolute())}, LONGEST_SECONDS)["problem"]
    except (WorkerTimeout, WorkerLost) as error:
        return f"transformers cannot load it: {error}"


@lru_cache(maxsize=1)
def _helper() -> Worker:
    return Worker(__name__)


# ------------------------------------------------------------------------------------ in the process


def problem_of(folder: Path) -> str:
    """`misfits`, found here."""
    from transformers import AutoModelForCausalLM

    from teachers.models.modules import told_of_tensors

    try:
        found: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            device_map="meta",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are told, instead of an error without their names
            local_files_only=True,
            trust_remote_code=False,
        )
    except Exception as error:  # of many kinds, for settings that no model can have
        return f"transformers cannot load it: {first_line(error)}"
    model, info = found
    return told_of_tensors(type(model).__name__, info) or _other_copies(model, folder)


def _other_copies(model: PreTrainedModel, folder: Path) -> str:
    """A tensor that is written out and differs from the one that config.json makes it; empty if none does."""
    import torch
    from safetensors import safe_open

    from teachers.models.files import tensor_shapes, weight_files

    places = {name: file for file in weight_files(folder) for name in tensor_shapes([file])}

    def read(name: str) -> torch.Tensor:
        with safe_open(str(places[name]), framework="pt") as file:
            return file.get_tensor(name)

    tied: dict[str, str] = model.get_expanded_tied_weights_keys(all_submodels=True)
    for name, first in tied.items():
        if {name, first} <= places.keys() and not torch.equal(read(name), read(first)):
            return (
                f"{name} in its files differs from {first}, and config.json says that they are one "
                "(tie_word_embeddings); engines would read different models"
            )
    return ""


def main() -> None:
    """Answers until stdin ends."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a package prints is no reply
    # transformers goes on without it, and importing it takes as long as all the rest
    sys.modules["sklearn"] = None  # pyright: ignore[reportArgumentType]
    from transformers.utils import logging

    importlib.import_module("transformers.models.auto.auto_factory")  # before the first question
    logging.set_verbosity(CRITICAL)
    logging.disable_progress_bar()
    for line in sys.stdin:
        replies.write(json.dumps({"problem": problem_of(Path(json.loads(line)["folder"]))}) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
