"""verl's blocks of shared memory are noted as the run's before they are made."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from trainer.processes import reaper

transfer = pytest.importorskip("verl.workers.rollout.vllm_rollout.bucketed_weight_transfer")


def test_a_block_is_noted_where_the_reaper_looks(tmp_path, monkeypatch):
    from trainer.cpu.shared_blocks import note_blocks

    monkeypatch.setattr(transfer, "create_shared_memory", transfer.create_shared_memory)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    note_blocks()
    note_blocks()  # as often as a process is asked
    name = f"verl_weights_{uuid.uuid4().hex}"
    block = transfer.create_shared_memory(100, name)
    try:
        assert (tmp_path / reaper.NOTED).read_text() == f"/dev/shm/{name}\n"
        assert Path(f"/dev/shm/{name}").exists()
    finally:
        block.close()
        block.unlink()
