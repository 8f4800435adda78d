"""The registry of experts: what is visible, found, verified, and held while it is built."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import ConfigError
from teachers.registry.local import Registry, expert_id
from teachers.registry.remote import open_remote
from tests.helpers.expert_orders import store_expert, store_whole
from tests.helpers.messages import refuses, says
from tests.helpers.paths import ROOT


@pytest.fixture
def registry(tmp_path):
    return Registry(tmp_path / "home")


def test_an_empty_registry(registry):
    assert registry.list() == []
    assert registry.find("0" * 16) is None
    with refuses("0 experts", "known experts: none"):
        registry.show("abc")
    assert not registry.root.exists()  # looking writes nothing


def test_the_id_is_a_digest_of_the_content_not_of_its_order():
    id = expert_id({"a": 1, "b": {"c": 2, "d": "é"}})
    assert id == expert_id({"b": {"d": "é", "c": 2}, "a": 1})
    assert len(id) == 16 and int(id, 16) >= 0
    assert id != expert_id({"a": 1, "b": {"c": 2, "d": "e"}})


def test_what_is_stored_is_found_as_it_was(registry):
    record = store_expert(registry, {"x": 1})
    assert registry.find(record.id) == record
    assert registry.list() == [record]
    assert registry.verify(record.id) == record
    assert record.model_path == str(registry.folder(record.id) / "model")


def test_list_is_oldest_first(registry):
    days = ["2026-01-03", "2026-01-01", "2026-01-02"]
    for number, day in enumerate(days):
        store_expert(registry, {"x": number}, created=f"{day}T00:00:00+00:00")
    assert [record.created[:10] for record in registry.list()] == sorted(days)


def test_show_takes_a_unique_beginning(registry):
    records = [store_expert(registry, {"x": number}) for number in range(40)]
    first = {record.id[0] for record in records}
    assert len(first) < 40  # some share their first character
    shared = next(r for r in records if sum(o.id[0] == r.id[0] for o in records) > 1)
    assert registry.show(shared.id) == shared
    assert registry.show(shared.id[:12]) == shared
    with pytest.raises(ConfigError, match=r"[2-9]\d* experts match") as caught:
        registry.show(shared.id[0])
    assert shared.id in str(caught.value)  # the ids that there are


def test_a_moved_registry_is_found_at_its_new_place(registry, tmp_path):
    record = store_expert(registry, {"x": 1})
    registry.root.rename(tmp_path / "elsewhere")
    moved = Registry(tmp_path / "elsewhere").find(record.id)
    assert Path(moved.path) == tmp_path / "elsewhere" / "experts" / record.id
    assert moved.weights_sha256 == record.weights_sha256


def test_without_a_record_nothing_is_visible(registry):
    record = store_expert(registry, {"x": 1})
    (Path(record.path) / "record.json").unlink()
    assert registry.list() == [] and registry.find(record.id) is None


def test_an_expert_that_was_being_stored_when_the_process_died_is_invisible(registry):
    """`new_folder` fills `.NAME.random.tmp` beside the target; a kill may leave it, record and all."""
    record = store_expert(registry, {"x": 1})
    folder = registry.folder(record.id)
    shutil.copytree(folder, folder.with_name(f".{folder.name}.0a1b2c3d.tmp"))
    assert registry.list() == [record]
    assert registry.show(record.id) == record


def test_an_expert_whose_record_was_being_written_again_when_the_process_died_is_whole(registry, tmp_path):
    """`write_json` fills `.NAME.random.tmp` beside the record; a kill may leave it in the expert's folder."""
    record = store_whole(registry, {"x": 1})
    folder = registry.folder(record.id)
    shutil.copy(folder / "record.json", folder / ".record.json.0a1b2c3d.tmp")
    assert registry.verify(record.id) == record and registry.check(record) == record
    store = open_remote(f"file://{tmp_path}/store").store
    store.upload(record.id, folder)
    assert store.ids() == [record.id] and store.files(record.id) == sorted(record.files)


@pytest.mark.parametrize("position", [0.5, 0.999])
def test_a_flipped_byte_in_the_weights_is_refused(registry, position):
    record = store_expert(registry, {"x": 1})
    file = Path(record.model_path) / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[int(len(content) * position)] ^= 1
    file.write_bytes(content)
    with refuses(record.id, record.weights_sha256[:12], "`protege experts rm`"):
        registry.verify(record.id)


def test_missing_weights_are_refused(registry):
    record = store_expert(registry, {"x": 1})
    (Path(record.model_path) / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="no weights"):
        registry.verify(record.id)


def test_a_record_of_a_newer_version_is_read(registry):
    record = store_expert(registry, {"x": 1})
    path = Path(record.path) / "record.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "colour": "green"}))
    assert registry.find(record.id) == record


def test_the_stored_record_does_not_hold_its_own_place(registry):
    record = store_expert(registry, {"x": 1})
    stored = json.loads((Path(record.path) / "record.json").read_text())
    assert "path" not in stored
    assert stored["identity"] == {"x": 1} and stored["weights_sha256"] == record.weights_sha256


WAITER = """
import sys, time
from pathlib import Path
from teachers.registry.local import Registry
print("asking", flush=True)
with Registry(Path(sys.argv[1])).building("id1") as folder:
    print("holding", sorted(p.name for p in folder.iterdir()), flush=True)
"""


def test_a_build_excludes_other_processes(registry):
    with registry.building("id1") as folder:
        assert folder == registry.root / "building" / "id1" and folder.is_dir()
        other = subprocess.Popen(
            [sys.executable, "-c", WAITER, str(registry.root)],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert other.stdout.readline() == "asking\n"
            with pytest.raises(subprocess.TimeoutExpired):
                other.wait(timeout=1.0)
            with registry.building("id2"):  # another expert is free
                (folder / "made-while-held").touch()
        except BaseException:
            other.kill()
            raise
    assert other.stdout.read() == "holding ['made-while-held']\n"
    told = other.stderr.read()
    assert other.wait(timeout=20) == 0
    says(told, "waiting", f"pid {os.getpid()}", Path(sys.argv[0]).name, "since", "id1", registry.root)


GIVES_UP = """
import sys
from pathlib import Path
from teachers.registry.local import Registry
with Registry(Path(sys.argv[1])).building("id1", lambda: print("gave up", flush=True)):
    pass
"""


def test_who_waits_for_a_build_first_gives_up_what_that_one_may_wait_for(registry):
    """Else two runs would wait for each other: one for the expert, the other for the devices."""
    with registry.building("id1", lambda: pytest.fail("nobody holds it")):
        other = subprocess.Popen(
            [sys.executable, "-c", GIVES_UP, str(registry.root)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert other.stdout.readline() == "gave up\n"
        assert other.poll() is None
    assert other.wait(timeout=20) == 0
    other.stdout.close()


def test_a_failed_build_frees_the_lock_and_keeps_its_folder(registry):
    with pytest.raises(RuntimeError), registry.building("id1") as folder:
        (folder / "checkpoint").touch()
        raise RuntimeError("stopped")
    with registry.building("id1") as folder:
        assert (folder / "checkpoint").exists()
