"""What a config names, each thing once, and what becomes of it; a stand-in downloads."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants
import pytest

from common.errors import ConfigError
from common.remote import HubFiles
from configs.load import load_config
from eval.benchmarks.evalplus_release import EvalPlusRelease
from merging.fetching import fetch, named_things
from tests.helpers.cli_runner import protege
from tests.helpers.hub_server import HUB_CACHE
from tests.helpers.lora_adapters import write_adapter
from tests.helpers.messages import says
from tests.helpers.tiny_model import config_dict, write_config, write_model

STUDENT, EXPERT, PROMPTS = "org/student", "org/expert", "org/prompts"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / HUB_CACHE))


@pytest.fixture
def config(tmp_path):
    """Its path: models of the hub, an adapter in a folder, prompts and benchmarks of all kinds."""
    given = config_dict(tmp_path)
    given["student"] = STUDENT
    given["objective"] = {"reference": {"kind": "model", "path": STUDENT}}
    math, code = given["domains"]["math"], given["domains"]["code"]
    math["expert"] = {"kind": "model", "path": EXPERT}
    math["prompts"] = {"kind": "hub", "path": PROMPTS, "data_files": "math/*.jsonl", "revision": "v1"}
    math["benchmarks"] = ["gsm8k", {"kind": "standard", "name": "aime24", "path": "aime24.jsonl"}]
    code["expert"] = {"kind": "adapter", "path": "./adapter"}
    code["validation"] = {"kind": "hub", "path": PROMPTS}
    code["benchmarks"] = ["mbpp_plus", "livecodebench_v6"]
    write_adapter(tmp_path / "adapter")
    (tmp_path / "aime24.jsonl").write_text("{}\n")
    return write_config(tmp_path, given)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A stand-in for all servers: what is in `broken` cannot be had from it, everything else is a model."""

    class Server:
        broken: set[str] = set()  # noqa: RUF012
        downloads: list[str] = []  # noqa: RUF012

        def download(self, remote) -> Path:
            if remote.title in self.broken:
                raise ConfigError("it is gated")
            self.downloads.append(remote.title)
            folder = tmp_path / "downloaded" / str(len(self.downloads))
            write_model(folder)
            return folder

    served = Server()
    served.broken, served.downloads = set(), []
    monkeypatch.setattr("merging.fetching.silence", lambda url: None)
    for kind in (HubFiles, EvalPlusRelease):
        monkeypatch.setattr(kind, "missing_bytes", lambda remote: 2048)
        monkeypatch.setattr(kind, "download", lambda remote: served.download(remote))
    return served


def titles(path) -> dict[str, tuple[str, ...]]:
    return {thing.title: thing.places for thing in named_things(load_config(path).config)}


def test_everything_that_a_config_names_is_listed_once_with_its_places(config, tmp_path):
    assert titles(config) == {
        f"model {STUDENT}": ("student", "objective.reference"),
        f"model {EXPERT}": ("domains.math.expert",),
        str(tmp_path / "adapter"): ("domains.code.expert",),
        f"data set {PROMPTS} at v1": ("domains.math.prompts",),
        f"data set {PROMPTS}": ("domains.code.validation",),
        "data set openai/gsm8k": ("domains.math.benchmarks[0]",),
        str(tmp_path / "aime24.jsonl"): ("domains.math.benchmarks[1]",),
        "EvalPlus's MbppPlus v0.2.0": ("domains.code.benchmarks[0]",),
        "data set livecodebench/code_generation_lite": ("domains.code.benchmarks[1]",),
    }


def test_the_bases_of_experts_are_named_too(tmp_path):
    given = config_dict(tmp_path) | {"objective": {"reference": "teacher_base"}}
    given["domains"]["math"]["expert"] = {"kind": "model", "path": EXPERT, "base": "org/base"}
    given["domains"]["code"]["expert"] = {"kind": "registered", "id": "some-id", "base": "org/other"}
    found = titles(write_config(tmp_path, given))
    assert found["model org/base"] == ("domains.math.expert.base",)
    assert found["model org/other"] == ("domains.code.expert.base",)


def test_only_the_wanted_files_of_a_data_set_are_downloaded(config):
    things = {thing.title: thing.what for thing in named_things(load_config(config).config)}
    assert things[f"data set {PROMPTS} at v1"].allowed == ("math/*.jsonl", "README.md")
    assert things[f"data set {PROMPTS}"].allowed is None
    assert things["data set livecodebench/code_generation_lite"].allowed == ("test6.jsonl",)


def test_each_thing_is_downloaded_or_local(config, server):
    states = {f.named.title: (f.state, f.size) for f in fetch(named_things(load_config(config).config))}
    assert states[f"model {STUDENT}"] == ("downloaded", 2048)
    assert [state for state, _ in states.values()].count("downloaded") == len(server.downloads) == 7
    local = [(state, size) for state, size in states.values() if state == "local"]
    assert len(local) == 2 and (3 in (size for _, size in local))  # adapter, and aime24.jsonl of three bytes


def test_what_cannot_be_had_keeps_nothing_else_from_being_tried(config, server):
    server.broken = {f"model {STUDENT}", "data set openai/gsm8k"}
    result = protege("fetch", config)
    assert result.code == 1 and len(server.downloads) == 5
    lines = {line.split("  ")[0]: line for line in result.out.splitlines() if line.startswith("failed")}
    assert [line.split()[0] for line in result.out.splitlines()].count("failed") == 2 and lines
    says(result.out, f"model {STUDENT} (student, objective.reference): it is gated")
    says(result.err, "2 of 9 things")


def test_a_dry_run_lists_and_downloads_nothing(config, server):
    result = protege("fetch", "--dry-run", config)
    assert result.code == 0 and server.downloads == []
    says(result.out, f"to download model {STUDENT} (student, objective.reference): 2.0 KiB", "14.0 KiB")


def test_overrides_change_what_is_named(config, server, tmp_path):
    result = protege("fetch", "--dry-run", config, "--set", f"student={tmp_path / 'student'}")
    says(result.out, f"local {tmp_path / 'student'} (student)")


def test_a_bad_config_is_refused_and_nothing_tried(config, server):
    result = protege("fetch", config, "--set", "training.steps=none")
    assert result.code == 2 and result.out == "" and server.downloads == []


def test_a_local_thing_that_is_not_there_or_not_whole_is_told(config, server, tmp_path):
    (tmp_path / "aime24.jsonl").unlink()
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    result = protege("fetch", config)
    assert result.code == 1 and len(server.downloads) == 7
    says(result.out, "no such file", "no adapter weights")


def test_a_downloaded_model_without_weights_is_told(config, server, tmp_path, monkeypatch):
    def without_weights(remote):
        (tmp_path / "empty").mkdir(exist_ok=True)
        return tmp_path / "empty"

    monkeypatch.setattr(HubFiles, "download", without_weights)
    result = protege("fetch", config)
    assert result.code == 1
    says(result.out, f"failed model {STUDENT} (student, objective.reference)", "no weights")


def test_without_a_network_the_cache_alone_decides(config, server, monkeypatch, tmp_path):
    monkeypatch.setattr("merging.fetching.silence", lambda url: f"{url} does not answer")
    here = {f"model {STUDENT}": tmp_path / "student"}
    monkeypatch.setattr(HubFiles, "cached", lambda remote: here.get(remote.title))
    states = {f.named.title: f for f in fetch(named_things(load_config(config).config))}
    assert server.downloads == []
    assert states[f"model {STUDENT}"].state == "in the cache"
    assert states[f"model {EXPERT}"].state == "failed"
    says(states[f"model {EXPERT}"].problem, "does not answer")
