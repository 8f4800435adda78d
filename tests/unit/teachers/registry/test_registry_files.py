"""Every file of an expert counts; removal is whole, and refused while somebody needs the expert."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from teachers.registry.expert_card import export_expert
from teachers.registry.local import Registry
from tests.helpers.cli_runner import ROOT, protege
from tests.helpers.expert_orders import store_expert, store_whole
from tests.helpers.messages import problems_of, says


@pytest.fixture
def registry(tmp_path):
    return Registry(tmp_path / "home")


@pytest.fixture
def record(registry):
    return store_whole(registry, {"x": 1})


def refusal(call, *arguments):
    (problem,) = problems_of(call, *arguments)
    return problem


def flip(file: Path) -> None:
    """Changes one byte and nothing that a listing shows."""
    status = file.stat()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


# ------------------------------------------------------------------------------------------- verify


def test_all_files_but_the_record_are_recorded(registry, record):
    folder = Path(record.path)
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert record.files.keys() == files - {"record.json"} and "learning_curve.jsonl" in record.files
    assert registry.verify(record.id) == record


@pytest.mark.parametrize("name", ["model/model.safetensors", "model/tokenizer.json", "learning_curve.jsonl"])
def test_a_flipped_bit_in_any_file_is_named(registry, name):
    record = store_whole(registry, {"x": 1}, curve=[{"step": 1}])
    flip(Path(record.path) / name)
    message = refusal(registry.verify, record.id)
    assert f"{name} was changed (sha256 " in message and "rm` removes it" in message


def test_everything_wrong_stands_in_one_message(registry, record):
    model = Path(record.model_path)
    (model / "config.json").write_text((model / "config.json").read_text() + " ")
    (model / "tokenizer_config.json").unlink()
    (model / "new.py").touch()
    message = refusal(registry.verify, record.id)
    for words in (
        "model/config.json was changed", "model/tokenizer_config.json is missing", "model/new.py was added",
    ):  # fmt: skip
        assert words in message


def test_a_use_checks_names_sizes_and_weights(registry, record):
    model = Path(record.model_path)
    assert registry.check(record) == record
    flip(model / "model.safetensors")
    os.utime(model / "model.safetensors")
    says(refusal(registry.check, record), "weights", "digest")
    flip(model / "model.safetensors")
    os.utime(model / "model.safetensors")
    registry.check(record)
    (model / "config.json").write_text((model / "config.json").read_text() + " ")
    says(refusal(registry.check, record), record.id, "bytes", "recorded")
    (model / "config.json").unlink()
    says(refusal(registry.check, record), "model/config.json", "missing")


def test_a_damaged_record_is_named(registry, record):
    file = Path(record.path) / "record.json"
    file.write_text(file.read_text()[:50])
    records, damaged = registry.records()
    assert records == []
    says(damaged[record.id], file, "damaged", "record")
    file.write_text("{}")
    assert str(file) in refusal(registry.find, record.id)


def test_a_damaged_record_hinders_no_other_expert_and_can_be_removed(registry, record):
    other, place = store_whole(registry, {"x": 2}), ("--registry", registry.root)
    (Path(record.path) / "record.json").write_text("{")
    assert registry.show(other.id) == other
    result = protege("experts", "verify", "--all", *place)
    assert (result.code, result.out) == (2, f"{other.id}: intact\n") and "record.json: damaged" in result.err
    assert protege("experts", "rm", record.id, "--yes", *place).code == 0
    assert registry.list() == [other]


BASE = {"path": "/models/base", "weights_sha256": 5}
SCORE = {"accuracy": 0.5, "n": 4, "unscored": 0}


@pytest.mark.parametrize(
    ("values", "facts"),
    [
        ({"created": None}, ("`created`", "string", "None")),
        ({"versions": []}, ("`versions`", "[]")),
        ({"domain": "\x1b[2Jmath"}, ("terminal",)),
        ({"base": BASE}, ("`base.weights_sha256`", "5")),
        ({"evaluation": {"sums": SCORE}}, ("`evaluation.sums.interval`", "missing")),
        ({"identity": {"recipe": {"prompts_per_step": 2}}}, ("`identity.recipe.samples_per_prompt`",)),
    ],
)
def test_a_record_of_other_types_is_listed_as_damaged_beside_the_others(registry, record, values, facts):
    other, file = store_whole(registry, {"x": 2}), Path(record.path) / "record.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    result = protege("experts", "list", "--registry", registry.root)
    (line,) = (line for line in result.out.splitlines() if line.startswith("damaged: "))
    says(line, record.id, file, *facts)
    assert result.code == 0 and other.id in result.out and registry.list() == [other]


def test_verify_all_of_nothing_says_so(registry):
    assert (
        protege("experts", "verify", "--all", "--registry", registry.root).out
        == f"no experts in {registry.root}\n"
    )


def test_verify_all_names_every_broken_expert(registry, record):
    other, old = store_whole(registry, {"x": 2}), store_expert(registry, {"x": 3})
    place = ("--registry", registry.root)
    result = protege("experts", "verify", "--all", *place)
    assert result.code == 0
    assert sorted(result.out.splitlines()) == sorted(
        [f"{record.id}: intact", f"{other.id}: intact",
         f"{old.id}: intact (weights only: its record has no digests of other files)"]
    )  # fmt: skip
    for broken in (record, other):
        (Path(broken.model_path) / "config.json").unlink()
    result = protege("experts", "verify", "--all", *place)
    assert result.code == 2 and result.out.split(":")[0] == old.id
    assert result.err.startswith("error: ") and result.err.count("model/config.json is missing") == 2
    assert (
        protege("experts", "verify", *place).code
        == protege("experts", "verify", "x", "--all", *place).code
        == 2
    )


# ------------------------------------------------------------------------------------------- export


def test_an_export_is_a_model_folder_with_a_card(registry, record, tmp_path):
    from transformers import AutoTokenizer

    target = export_expert(record, tmp_path / "out")
    assert {path.name for path in target.iterdir()} == {
        *(path.name for path in Path(record.model_path).iterdir()), "README.md",
    }  # fmt: skip
    assert len(AutoTokenizer.from_pretrained(target)) > 90
    text = (target / "README.md").read_text()
    for words in (
        record.id,
        "trained by GRPO",
        "Not measured.",
        "final reward: 0.750",
        record.weights_sha256,
    ):
        assert words in text
    (target / "model.safetensors").write_bytes(b"")  # a copy: the registry's own is another file
    registry.verify(record.id)


def test_an_export_overwrites_nothing(registry, record, tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    export_expert(record, target)  # an empty folder will do
    before = sorted(path.name for path in target.iterdir())
    says(refusal(export_expert, record, target), target, "empty folder")
    assert sorted(path.name for path in target.iterdir()) == before
    (tmp_path / "file").touch()
    says(refusal(export_expert, record, tmp_path / "file"), tmp_path / "file", "empty folder")


def test_a_stopped_export_leaves_nothing(record, tmp_path, monkeypatch):
    def full(source, target, **how):
        (target / "half").touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copytree", full)
    assert "No space left on device" in refusal(export_expert, record, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_a_broken_expert_is_not_exported(registry, record, tmp_path):
    (Path(record.model_path) / "config.json").unlink()
    result = protege("experts", "export", record.id, tmp_path / "out", "--registry", registry.root)
    assert result.code == 2 and not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------- remove


def test_rm_needs_a_yes(registry, record):
    place = ("--registry", registry.root)
    result = protege("experts", "rm", record.id, *place)
    assert result.code == 2 and "give --yes" in result.err and registry.find(record.id) == record
    result = protege("experts", "rm", record.id[:8], "--yes", *place)
    assert (result.code, result.out) == (0, f"{record.id}: removed\n")
    assert registry.list() == [] and not list((registry.root / "experts").iterdir())
    assert protege("experts", "rm", record.id, "--yes", *place).code == 2


HOLDER = """
import sys, time
from pathlib import Path
from teachers.registry.local import Registry
with Registry(Path(sys.argv[1])).building(sys.argv[2]):
    print("holding", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(registry, record):
    """A process that builds the expert."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(registry.root), record.id],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "holding\n"
    yield process
    process.kill()
    process.wait()


def test_rm_is_refused_while_the_expert_is_built(registry, record, holder):
    place = ("--registry", registry.root)
    for more in ([], ["--building"]):
        result = protege("experts", "rm", record.id, "--yes", *more, *place)
        assert result.code == 2 and "a live process builds it" in result.err
    assert registry.find(record.id) == record and registry.stopped() == [record.id]
    holder.kill()
    holder.wait()
    assert protege("experts", "rm", record.id, "--building", "--yes", *place).code == 0
    assert registry.stopped() == [] and registry.find(record.id) == record


def test_rm_is_refused_while_a_run_folder_reads_it(registry, record, tmp_path):
    run, gone = tmp_path / "run", tmp_path / "gone"
    run.mkdir()
    registry.note_use(record.id, run)
    registry.note_use(record.id, run)
    registry.note_use(record.id, gone)
    assert registry.uses(record.id) == [run]
    place = ("--registry", registry.root)
    result = protege("experts", "rm", record.id, "--yes", *place)
    assert result.code == 2 and f"is read by {run}, which" in result.err
    assert protege("experts", "rm", record.id, "--yes", "--used", *place).code == 0
    assert registry.uses(record.id) == []


def test_a_damaged_note_of_a_use_hides_no_other_and_blocks_no_removal(registry, record, tmp_path):
    registry.note_use(record.id, tmp_path)
    notes = registry.root / "uses" / record.id
    for number, content in enumerate((b"\xff", b"", b"x" * 5000, b"a\0b", b"~no-such-user/x", b"\0" * 9)):
        (notes / f"damaged{number}").write_bytes(content)
    os.mkfifo(notes / "pipe")
    (notes / "folder").mkdir()
    assert registry.uses(record.id) == [tmp_path]
    (next(notes.glob("?" * 16))).unlink()
    assert registry.uses(record.id) == []
    assert protege("experts", "rm", record.id, "--yes", "--registry", registry.root).code == 0


def test_a_registry_that_cannot_be_written_remembers_no_use(record, tmp_path):
    (tmp_path / "file").touch()
    Registry(tmp_path / "file").note_use(record.id, tmp_path)


def test_a_stopped_removal_is_invisible_and_cleared_by_the_next(registry, record, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            registry.remove(record.id)
    assert registry.list() == [] and len(list((registry.root / "experts").iterdir())) == 1
    store_whole(registry, {"x": 1})
    registry.remove(record.id)
    assert list((registry.root / "experts").iterdir()) == []


def test_stopped_builds_are_listed_and_removed_by_a_beginning(registry):
    for id in ("aa11", "aa22"):
        with registry.building(id) as folder:
            (folder / "checkpoint").touch()
    place = ("--registry", registry.root)
    says(protege("experts", "list", *place).out, "build", "aa11")
    assert "2 stopped builds match" in protege("experts", "rm", "aa", "--building", "--yes", *place).err
    assert protege("experts", "rm", "aa1", "--building", "--yes", *place).out == "aa11: build removed\n"
    assert registry.stopped() == ["aa22"]


def test_an_expert_in_a_folder_that_may_not_be_entered_is_damaged_and_hides_no_other(
    registry, record, monkeypatch
):
    """As a user without the permission sees it; root may enter every folder."""
    other = store_whole(registry, {"other": 1})
    closed, stat = str(registry.folder(record.id)), os.stat

    def refuse(place, *args, **kwargs):
        if str(place).startswith(f"{closed}/"):
            raise PermissionError(13, "Permission denied", str(place))
        return stat(place, *args, **kwargs)

    monkeypatch.setattr(os, "stat", refuse)
    whole, damaged = registry.records()
    assert [each.id for each in whole] == [other.id]
    assert "cannot be reached: Permission denied" in damaged[record.id]
    result = protege("experts", "verify", "--all", "--registry", registry.root)
    assert result.code == 2 and f"{other.id}: intact" in result.out and closed in result.err
