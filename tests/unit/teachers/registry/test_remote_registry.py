"""A registry at a URL: in memory, and in a folder behind `file://`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from uuid import uuid4

import pytest

import teachers.build as build_module
from common.errors import ConfigError, RunFailed
from configs.load import load_config
from configs.places import registry_place, registry_root
from teachers.build import build_expert, find_expert
from teachers.registry.local import Registry
from teachers.registry.opening import open_registry
from tests.helpers.cli_runner import protege
from tests.helpers.expert_orders import order, store_whole
from tests.helpers.messages import refuses
from tests.helpers.paths import STUDENT
from tests.helpers.stand_in_trainers import ExpertTrainer
from tests.helpers.tiny_model import config_dict, write_config


@pytest.fixture(params=["memory", "file"])
def url(request, tmp_path, monkeypatch):
    monkeypatch.setenv("PROTEGE_HOME", str(tmp_path / "home"))
    return (
        f"memory://{uuid4().hex}/experts-of-us" if request.param == "memory" else f"file://{tmp_path}/store"
    )


@pytest.fixture
def registry(url):
    return open_registry(url)


@pytest.fixture
def elsewhere(url, tmp_path, monkeypatch):
    """The same registry on a machine without local copies."""

    def there():
        monkeypatch.setenv("PROTEGE_HOME", str(tmp_path / uuid4().hex))
        return open_registry(url)

    return there


def publish(registry, identity=None, **more):
    record = store_whole(registry, identity or {"x": 1}, **more)
    assert registry.publish(record.id) == record
    return record


def path(registry, record, name):
    return f"{registry.store.root}/experts/{record.id}/{name}"


# --------------------------------------------------------------------------------------- the place


def test_places(monkeypatch, tmp_path):
    monkeypatch.setenv("PROTEGE_HOME", str(tmp_path))
    assert registry_place("s3://bucket/x") == "s3://bucket/x"
    copies = registry_root("s3://bucket/x")
    assert copies.parent == tmp_path / "remote" and copies == registry_root("s3://bucket/x/")
    assert registry_root("s3://bucket/y") != copies
    assert registry_place("folder") == Path("folder")
    monkeypatch.setenv("PROTEGE_HOME", "s3://bucket/x")
    assert registry_place() == "s3://bucket/x"
    assert registry_root() == Path("~/.protege").expanduser() / "remote" / copies.name


def test_the_configs_registry_may_be_a_url(tmp_path):
    config = config_dict(tmp_path)
    config["registry"] = "s3://bucket/x"
    loaded = load_config(write_config(tmp_path, config)).config
    assert loaded.registry == "s3://bucket/x"
    assert json.loads(loaded.model_dump_json())["registry"] == "s3://bucket/x"


def test_an_unknown_protocol_is_refused_with_what_is_valid():
    with refuses("registry foo://x", "folder", "URL"):
        open_registry("foo://x")


def test_a_missing_package_is_named(monkeypatch):
    from fsspec.registry import known_implementations

    known = {"class": "no_such_package.FileSystem", "err": "Please install no_such_package"}
    monkeypatch.setitem(known_implementations, "nosuch", known)
    with refuses("package", "no_such_package"):
        open_registry("nosuch://bucket/x")


def test_a_config_with_an_unknown_protocol_is_refused_by_check(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = protege("check", write_config(tmp_path, {**config_dict(tmp_path), "registry": "foo://x"}))
    assert result.code == 2 and "registry foo://x" in result.err


# ---------------------------------------------------------------------------------------- experts


def test_an_empty_store(registry):
    assert registry.list() == [] and registry.find("0" * 16) is None
    with pytest.raises(ConfigError, match="known experts: none"):
        registry.show("abc")


def test_what_is_published_is_found_and_fetched_elsewhere(registry, elsewhere):
    record = publish(registry, curve=[{"step": 1, "reward": 0.5}])
    assert registry.list() == [record]
    other = elsewhere()
    (seen,) = other.list()
    assert seen.id == record.id and not Path(seen.path).exists()  # its files are still there only
    assert other.curve(seen) == [{"step": 1, "reward": 0.5}] and not Path(seen.path).exists()
    fetched = other.fetch(other.show(record.id[:6]))
    assert other.check(fetched) == fetched and fetched.files == record.files
    assert Path(fetched.model_path).is_relative_to(other.root)
    assert Registry(other.root).verify(record.id).weights_sha256 == record.weights_sha256
    assert other.curve(fetched) == [{"step": 1, "reward": 0.5}]


def test_the_record_is_uploaded_last(registry, monkeypatch):
    record = store_whole(registry, {"x": 1})
    original, count = type(registry.store.fs).put_file, []

    def breaks(self, local, remote, *arguments, **more):
        count.append(remote)
        if len(count) == len(record.files):
            raise OSError("the network is gone")
        return original(self, local, remote, *arguments, **more)

    with monkeypatch.context() as patched:
        patched.setattr(type(registry.store.fs), "put_file", breaks)
        with refuses("cannot be written", "OSError", "the network is gone", error=RunFailed):
            registry.publish(record.id)
    assert len(count) == len(record.files)
    assert registry.store.files(record.id)  # half of it is there
    assert registry.list() == [] and registry.find(record.id) is None  # and invisible
    registry.store.fs.pipe_file(path(registry, record, "model/stale"), b"of another upload")
    assert registry.publish(record.id) == record and registry.list() == [record]
    assert registry.verify(record.id) == record


def test_a_stopped_download_leaves_nothing(registry, elsewhere, monkeypatch):
    record, other = publish(registry), elsewhere()
    original = type(other.store).download

    def stops(self, id, folder):
        original(self, id, folder)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(type(other.store), "download", stops)
        with pytest.raises(KeyboardInterrupt):
            other.fetch(other.show(record.id))
    assert list((other.root / "experts").iterdir()) == []
    assert other.check(other.fetch(other.show(record.id))).id == record.id


def test_a_changed_file_in_the_store_is_refused_by_verify_and_by_fetch(registry, elsewhere):
    record = publish(registry)
    assert registry.verify(record.id) == record
    registry.store.fs.pipe_file(path(registry, record, "model/config.json"), b"{}")
    registry.store.fs.pipe_file(path(registry, record, "model/new"), b"")
    registry.store.fs.rm_file(path(registry, record, "model/tokenizer.json"))
    with pytest.raises(ConfigError) as caught:
        registry.verify(record.id)
    for words in ("config.json was changed", "model/new was added", "model/tokenizer.json is missing"):
        assert words in str(caught.value)
    other = elsewhere()
    with refuses("config.json", "changed"):
        other.fetch(other.show(record.id))
    assert list((other.root / "experts").iterdir()) == []


def test_a_damaged_local_copy_is_fetched_anew(registry, elsewhere):
    record, other = publish(registry), elsewhere()
    local = other.fetch(other.show(record.id))
    (Path(local.model_path) / "config.json").unlink()
    assert other.check(local) == local and (Path(local.model_path) / "config.json").is_file()
    other.store.fs.rm_file(path(registry, record, "model/config.json"))
    (Path(local.model_path) / "config.json").unlink()
    with refuses("model/config.json", "missing"):
        other.check(local)


def test_another_expert_of_the_same_id_replaces_the_local_copy(registry, elsewhere, tmp_path):
    record, other = publish(registry), elsewhere()
    other.fetch(other.show(record.id))
    registry.remove(record.id)
    again = publish(registry, value=0.75)  # as GRPO gives other weights in another run
    assert again.weights_sha256 != record.weights_sha256
    assert other.check(other.fetch(other.show(record.id))).weights_sha256 == again.weights_sha256


def test_rm_removes_it_everywhere(registry, url, elsewhere):
    record = publish(registry)
    assert protege("experts", "rm", record.id, "--yes", "--registry", url).code == 0
    assert registry.list() == [] and registry.store.files(record.id) == []
    assert not Path(record.path).exists() and elsewhere().list() == []


def test_an_updated_record_is_seen_elsewhere(registry, elsewhere):
    from dataclasses import replace

    record, other = publish(registry), elsewhere()
    other.fetch(other.show(record.id))
    registry.update(replace(record, source="told later"))
    assert Registry(registry.root).find(record.id).source == "told later"
    assert other.fetch(other.show(record.id)).source == "told later"
    assert Registry(other.root).find(record.id).source == "told later"


def test_the_commands_work_on_it(registry, url, elsewhere, tmp_path):
    record = publish(registry)
    elsewhere()
    assert record.id in protege("experts", "list", "--registry", url).out
    assert (
        json.loads(protege("experts", "show", record.id, "--json", "--registry", url).out)["id"] == record.id
    )
    assert protege("experts", "verify", "--all", "--registry", url).out == f"{record.id}: intact\n"
    assert protege("experts", "export", record.id, tmp_path / "out", "--registry", url).code == 0
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert protege("experts", "list", "--registry", f"{url}/none").out == f"no experts in {url}/none\n"


def test_an_import_goes_there(url, elsewhere, tmp_path):
    config = write_config(tmp_path, config_dict(tmp_path))
    arguments = ("--domain", "math", "--config", config, "--no-evaluation", "--registry", url)
    result = protege("experts", "import", tmp_path / "math_expert", *arguments)
    assert result.code == 0, result.err
    other = elsewhere()
    (record,) = other.list()
    assert record.kind == "imported" and other.check(other.fetch(record)) == record


# ------------------------------------------------------------------------------------------ builds


def test_a_build_happens_here_and_is_found_elsewhere(registry, elsewhere, monkeypatch):
    trainer = ExpertTrainer()
    monkeypatch.setattr(build_module, "train", trainer)
    record = build_expert(registry, order(STUDENT), lambda: None, lambda step, metrics: None)
    assert trainer.jobs[0].folder.is_relative_to(registry.root)
    other = elsewhere()
    found = find_expert(other, order(STUDENT))
    assert found.weights_sha256 == record.weights_sha256
    again = build_expert(other, order(STUDENT), lambda: None, lambda step, metrics: None)
    assert len(trainer.jobs) == 1 and other.check(again).id == record.id


def test_a_build_whose_upload_failed_is_uploaded_not_built_again(registry, elsewhere, monkeypatch):
    trainer = ExpertTrainer()
    monkeypatch.setattr(build_module, "train", trainer)

    def fails(self, id, folder):
        raise RunFailed("no network")

    with monkeypatch.context() as patched:
        patched.setattr(type(registry.store), "upload", fails)
        with pytest.raises(RunFailed, match="no network"):
            build_expert(registry, order(STUDENT), lambda: None, lambda step, metrics: None)
    assert registry.list() == [] and find_expert(registry, order(STUDENT)) is None
    record = build_expert(registry, order(STUDENT), lambda: None, lambda step, metrics: None)
    assert len(trainer.jobs) == 1 and elsewhere().list()[0].id == record.id


def test_an_old_experts_folder_that_was_copied_there_by_hand_is_read(tmp_path, monkeypatch):
    from tests.helpers.expert_orders import store_expert

    monkeypatch.setenv("PROTEGE_HOME", str(tmp_path / "home"))
    registry = open_registry(f"file://{tmp_path}/store")
    record = store_expert(Registry(tmp_path / "old"), {"x": 1})
    target = Path(registry.store.root) / "experts" / record.id
    shutil.copytree(record.path, target)
    assert registry.verify(record.id).weights_sha256 == record.weights_sha256
    assert registry.fetch(registry.show(record.id)).files is None
