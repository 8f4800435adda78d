"""Fixtures of the tests of prompt sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.hub_server import HUB_CACHE


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """The libraries `datasets` and `huggingface_hub` keep what they have in folders of the test's own."""
    import datasets
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / HUB_CACHE))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def folder(tmp_path) -> Path:
    """An empty folder for a source's files, `set`."""
    (tmp_path / "set").mkdir()
    return tmp_path / "set"
