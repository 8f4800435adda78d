"""A model's folder: the path itself, the local copy of a hub name, or a refusal."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import pytest

from common.errors import ConfigError
from common.models import MODEL_FILES, resolve_model


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """What the hub's client is asked for; it answers every time."""
    calls = []

    def snapshot(name, **options):
        calls.append((name, options))
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    return calls


def test_a_folder_is_its_own_place(tmp_path, monkeypatch, asked):
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for download in ((), ("config.json",)):
        assert resolve_model(str(tmp_path / "models/mine"), download) == tmp_path / "models/mine"
        assert resolve_model("models/mine", download) == Path("models/mine")
        assert resolve_model("~/models/mine", download) == tmp_path / "models/mine"
    assert asked == []


@pytest.mark.parametrize("name", ["/no/such/folder", "./none", "../none", "~/none"])
def test_a_path_is_never_a_hub_name(name, asked):
    for download in ((), ("config.json",)):
        with pytest.raises(ConfigError) as caught:
            resolve_model(name, download)
        assert str(caught.value) == f"{name}: no such model folder"
    assert asked == []


def test_a_hub_name_is_only_downloaded_on_request(tmp_path, asked):
    assert resolve_model("org/model") == tmp_path / "snapshot"
    name, options = asked.pop()
    assert name == "org/model" and options["local_files_only"] is True
    assert set(options["allow_patterns"]) == set(MODEL_FILES)  # what `protege fetch` downloads is whole
    assert resolve_model("org/model", download=("*.safetensors", "config.json")) == tmp_path / "snapshot"
    name, options = asked.pop()
    assert name == "org/model" and "local_files_only" not in options
    assert options["allow_patterns"] == ["*.safetensors", "config.json"]


@pytest.mark.parametrize("name", ["org/absent", "not a name at all!", "a/b/c"])
def test_a_name_that_the_cache_lacks_is_refused_with_the_command_that_fetches_it(name):
    with pytest.raises(ConfigError) as caught:
        resolve_model(name)
    assert str(caught.value) == (
        f"{name}: neither a model folder nor a whole model in the local Hugging Face cache; "
        "`protege fetch CONFIG` downloads the models of the hub that a config names"
    )


def test_a_failed_download_is_refused_with_its_reason(monkeypatch):
    def offline(*_, **__):
        raise ConnectionError("no route to the hub\nand a page of details")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(ConfigError) as caught:
        resolve_model("org/model", download=("config.json",))
    assert str(caught.value) == (
        "model 'org/model' is neither a folder nor a hub model that can be loaded here "
        "(ConnectionError: no route to the hub)"
    )
