"""verl's SFT trainer alone, on two devices, with real Ray: it reserves few CPUs, trains and exports."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.schema import Hardware
from tests.helpers.paths import STUDENT
from trainer.export import export
from trainer.processes.ray_cluster import ray_cluster
from trainer.run import read_metrics, train
from trainer.sft import SftJob

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(280)]

STEPS, ROWS = 3, 4
CPUS = 9
"""Three beside each of two devices, and three for everything else; verl's own default takes ten for each."""


def test_two_devices_train_with_three_cpus_each(tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.processes.ray_cluster.LOGICAL_CPUS", CPUS)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    hardware = Hardware(device="cpu", gpus=2)
    job = SftJob(
        name="sft", model_path=str(STUDENT), train_file=rows(tmp_path / "rows.parquet"),
        folder=tmp_path / "work", steps=STEPS, rows_per_step=ROWS, learning_rate=1e-3, save_every=STEPS,
        seed=1, hardware=hardware,
    )  # fmt: skip
    seen = []
    with ray_cluster(hardware, tmp_path / "metrics", hardware.gpus) as cluster:
        import ray

        assert ray.cluster_resources()["CPU"] == CPUS
        train(job, cluster, lambda step, raw: seen.append(step))
    assert seen == list(range(1, STEPS + 1))
    losses = [line["train/loss"] for line in read_metrics(job.folder)]
    assert len(losses) == STEPS and losses[-1] < losses[0]  # every row is the same
    export(job.checkpoints, STEPS, STUDENT, tmp_path / "model")
    weights = (tmp_path / "model" / "model.safetensors").read_bytes()
    assert weights != (STUDENT / "model.safetensors").read_bytes()


def rows(file: Path) -> Path:
    """As many as are trained on, all alike."""
    row = {"prompt_ids": [5, 6, 7], "response_ids": [8, 9, 10, 11, 2]}
    pq.write_table(pa.Table.from_pylist([row] * (STEPS * ROWS)), file)
    return file
