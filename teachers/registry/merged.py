"""An adapter and its student as one full model, kept in the registry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from common.digests import json_sha256
from teachers.models import files
from teachers.models import fingerprint as fp
from teachers.models.adapters import Adapters, fingerprint, is_adapter
from trainer.export import TOKENIZER_FILES, save_model

if TYPE_CHECKING:
    from teachers.registry.local import Registry


MERGED = "merged"
"""Folder of the registry with the full models that adapters make of their student."""


def merged_model(student: str | Path, adapter: str | Path, registry: Registry) -> Path:
    """The full model that the adapter makes of the student, from the registry or made now.

    It is kept by the content of student and adapter, with the student's tokenizer, chat template and
    generation settings, and in its number format; the sum is taken in float32.
    """
    base, own = fp.fingerprint(student), fingerprint(adapter)
    names = ("config.json", "generation_config.json", *TOKENIZER_FILES)
    others = [file for name in names if (file := Path(base.path) / name).is_file()]
    key = [base.weights_sha256, own.weights_sha256, [[file.name, files.file_sha256(file)] for file in others]]
    target = registry.root / MERGED / json_sha256(key)[:16]
    if not target.exists():
        with registry.building(f"{MERGED}-{target.name}") as work:  # another process may be making it
            if not target.exists():
                _merge(Path(base.path), Path(own.path), target)
            work.rmdir()
    return target


def full_model(student: str | Path, expert: str | Path, registry: Registry) -> str:
    """Folder of the expert as a full model: its own, or that of what an adapter makes of the student."""
    return str(merged_model(student, expert, registry) if is_adapter(expert) else expert)


def _merge(student: Path, adapter: Path, target: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    module = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32)
    adapters = Adapters(module)
    adapters.add("adapter", str(adapter))
    assert adapters.peft is not None, "an adapter was added"
    merged = adapters.peft.merge_and_unload(safe_merge=True)
    save_model(merged.to(AutoConfig.from_pretrained(student).dtype or torch.float32), student, target)
