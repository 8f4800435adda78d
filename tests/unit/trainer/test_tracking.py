"""TensorBoard and W&B: what verl is told for each training, and that an option changes something."""

from __future__ import annotations

import pytest

from configs.load import load_config
from tests.helpers.paths import ROOT
from trainer.tracking import ENVIRONMENT_KEY, LOGGER_ROOT, tracking_keys


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv(LOGGER_ROOT, str(tmp_path / "verl_metrics"))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return tmp_path


def test_without_trackers_only_the_file_is_written(run):
    assert tracking_keys((), "merge") == {"trainer.logger": ["file"], ENVIRONMENT_KEY: {}}


def test_each_training_has_its_own_events(run):
    for training in ("merge", "expert-math"):
        keys = tracking_keys(("tensorboard",), training)
        assert keys["trainer.logger"] == ["file", "tensorboard"]
        assert keys[ENVIRONMENT_KEY] == {"TENSORBOARD_DIR": str(run / "tensorboard" / training)}


def test_wandb_is_offline_unless_the_user_says_otherwise(run, monkeypatch):
    keys = tracking_keys(("wandb",), "merge")
    assert keys["trainer.logger"] == ["file", "wandb"]
    assert keys[ENVIRONMENT_KEY]["WANDB_DIR"] == str(run)
    assert keys[ENVIRONMENT_KEY]["WANDB_MODE"] == "offline"
    monkeypatch.setenv("WANDB_MODE", "online")
    assert tracking_keys(("wandb",), "merge")[ENVIRONMENT_KEY]["WANDB_MODE"] == "online"


def test_the_config_reaches_the_cluster(run, tmp_path, monkeypatch):
    """`tracking` goes with the cluster, so that experts, merge and OPD are all tracked."""
    from contextlib import contextmanager

    from merging.state.cluster import Cluster
    from trainer.processes import ray_cluster

    @contextmanager
    def started(hardware, metrics_root, logical_gpus, pool_nodes):
        yield ray_cluster.RayCluster(metrics_root, "mark")

    monkeypatch.setattr(ray_cluster, "marked_cluster", started)
    monkeypatch.setattr(ray_cluster, "machine_lock", lambda *_: contextmanager(lambda: (yield))())
    quickstart = ROOT / "configs" / "runs" / "quickstart.yaml"
    config = load_config(quickstart, ["tracking=[wandb, tensorboard]"]).config
    with Cluster(config, tmp_path) as cluster:
        assert cluster().trackers == ("wandb", "tensorboard")


def test_verls_own_names_are_these():
    from verl.utils.tracking import Tracking

    assert {"file", "tensorboard", "wandb"} <= set(Tracking.supported_backend)
