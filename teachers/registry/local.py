"""The registry of experts: found again by what they were made from, never by a path.

An expert's folder `<root>/experts/<id>/` holds `model/` (Hugging Face format, or a peft adapter),
`learning_curve.jsonl` (of one that was built here) and `record.json`. The folder appears whole or not at all,
so a half-written expert is never visible. A build in progress lies in `<root>/building/<id>/`, from where a
stopped one continues. A registry at a URL is a `teachers.registry.remote.RemoteRegistry`.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from common.errors import ConfigError
from common.files import expanded, remove_folder, remove_leftovers, write_json, write_text
from common.locks import lock, this_process
from common.reading import reaching, read_bytes, read_json_lines, read_text
from teachers.models.adapters import weights_sha256
from teachers.registry import expert_files
from teachers.registry.records import (
    ID_CHARACTERS,
    LEARNING_CURVE,
    MODEL,
    RECORD,
    ExpertRecord,
    expert_id,
    parse_record,
    record_json,
)

__all__ = [
    "ID_CHARACTERS",
    "LEARNING_CURVE",
    "MODEL",
    "RECORD",
    "ExpertRecord",
    "Registry",
    "expert_id",
    "record_json",
]

CURVE = "a learning curve, one JSON object of numbers a line"

REPAIR = "`protege experts rm` removes it, so that it can be built or imported again"


@dataclass(frozen=True)
class Registry:
    """Experts under one folder."""

    root: Path

    @property
    def place(self) -> str:
        """Where the experts are, for messages."""
        return str(self.root)

    # ------------------------------------------------------------------------------------- reading

    def list(self) -> list[ExpertRecord]:
        """All experts but those whose record is damaged, oldest first."""
        return self.records()[0]

    def records(self) -> tuple[list[ExpertRecord], dict[str, str]]:
        """The experts, oldest first, and what is wrong with each damaged record, by id."""
        whole, damaged = [], {}
        for id in self.ids():
            try:
                record = self.find(id)
            except ConfigError as error:
                damaged[id] = str(error)
            else:
                whole += [] if record is None else [record]
        return sorted(whole, key=lambda record: record.created), damaged

    def find(self, id: str) -> ExpertRecord | None:
        """The expert with this id, or None where there is none; its files may be elsewhere (`fetch`)."""
        folder = self.folder(id)
        with reaching():
            return self._read(folder) if (folder / RECORD).exists() else None

    def ids(self) -> list[str]:
        """Ids of all experts, sorted; their records may be damaged."""
        place = self.root / "experts"
        folders = place.iterdir() if place.is_dir() else ()
        return sorted(each.name for each in folders if not each.name.startswith(".") and _has_record(each))

    def resolve(self, id: str) -> str:
        """The id that this is, or is the unique beginning of; raises ConfigError where there is none."""
        known = self.ids()
        matches = [id] if id in known else [each for each in known if each.startswith(id)]
        if len(matches) != 1:
            raise ConfigError(
                f"expert {id!r}: {len(matches)} experts match in {self.place}; known experts: "
                f"{', '.join(known) or 'none'}"
            )
        return matches[0]

    def show(self, id: str) -> ExpertRecord:
        """The expert with this id or unique beginning of one; raises ConfigError where there is none."""
        record = self.find(self.resolve(id))
        if record is None:
            raise ConfigError(f"expert {id!r}: was removed from {self.place} just now")
        return record

    def parent_of(self, base_sha256: str) -> str:
        """Id of the oldest expert with these weights, else their digest."""
        same = [record.id for record in self.list() if record.weights_sha256 == base_sha256]
        return same[0] if same else base_sha256

    def fetch(self, record: ExpertRecord) -> ExpertRecord:
        """The expert with its files on this machine."""
        return record

    def curve(self, record: ExpertRecord) -> list[dict[str, float]]:
        """The expert's learning curve; empty for one that was not built here."""
        return read_json_lines(Path(record.path) / LEARNING_CURVE, dict[str, float], CURVE)

    def folder(self, id: str) -> Path:
        """Where an expert with this id is kept on this machine."""
        return self.root / "experts" / id

    # ----------------------------------------------------------------------------------- integrity

    def verify(self, id: str) -> ExpertRecord:
        """Reads all of the expert's files; raises ConfigError if they are not those recorded."""
        record = self.show(id)
        with reaching():
            refuse_problems(record, list(self._differences(record)))
        return record

    def check(self, record: ExpertRecord) -> ExpertRecord:
        """For every use: sizes of the files, and the digest of the weights. Raises ConfigError."""
        problems = []
        if record.files is not None:
            found = expert_files.files_in(Path(record.path))
            problems += expert_files.differences(record.files, found, record.files.__getitem__)
            total = expert_files.size(Path(record.path))
            if not problems and total != record.size_bytes:
                problems.append(f"its files have {total} bytes, recorded were {record.size_bytes}")
        refuse_problems(record, [*problems, *_other_weights(record)])
        return record

    def _differences(self, record: ExpertRecord) -> Iterator[str]:
        if record.files is not None:
            found = expert_files.digests(Path(record.path))
            yield from expert_files.differences(record.files, found, found.__getitem__)
        yield from _other_weights(record)

    # ------------------------------------------------------------------------------------- writing

    @contextmanager
    def building(self, id: str, before_waiting: Callable[[], object] = lambda: None) -> Iterator[Path]:
        """Folder of a build in progress, held against other processes (they wait).

        Who has to wait first calls `before_waiting`: it gives up what the one that builds may be waiting for.
        """
        folder = self.root / "building" / id
        with self._lock(id, before_waiting=before_waiting):
            folder.mkdir(parents=True, exist_ok=True)
            for place in (folder, self.folder(id)):
                remove_leftovers(place)
            yield folder

    def publish(self, id: str) -> ExpertRecord | None:
        """Makes an expert that is whole on this machine visible to all; None where there is none."""
        return self.find(id)

    def update(self, record: ExpertRecord) -> None:
        """Writes an expert's record again; one that was removed meanwhile stays away."""
        with self._lock(record.id):
            if (self.folder(record.id) / RECORD).exists():
                write_json(self.folder(record.id) / RECORD, record_json(record))

    def remove(self, id: str) -> None:
        """Deletes an expert, and what a stopped build of it left; raises ConfigError while it is built."""
        with self._lock(id, wait=False):
            self._remove(id)
            remove_folder(self.root / "building" / id)
            shutil.rmtree(self.root / "uses" / id, ignore_errors=True)

    def _remove(self, id: str) -> None:
        remove_folder(self.folder(id))
        remove_leftovers(self.folder(id))

    # ------------------------------------------------------------------------------ builds and uses

    def stopped(self) -> list[str]:
        """Ids with a folder of a build in progress or stopped."""
        return sorted(path.name for path in (self.root / "building").glob("[!.]*") if path.is_dir())

    def remove_building(self, id: str) -> str:
        """Deletes what a stopped build left; takes a unique beginning, returns the id."""
        matches = [name for name in self.stopped() if name.startswith(id)]
        if len(matches) != 1:
            known = ", ".join(self.stopped()) or "none"
            raise ConfigError(
                f"build {id!r}: {len(matches)} stopped builds match in {self.root}; there are: {known}"
            )
        with self._lock(matches[0], wait=False):
            remove_folder(self.root / "building" / matches[0])
            remove_leftovers(self.root / "building" / matches[0])
        return matches[0]

    def note_use(self, id: str, run_dir: Path) -> None:
        """Remembers that a run reads this expert; a registry that cannot be written remembers nothing."""
        name = hashlib.sha256(str(run_dir.absolute()).encode()).hexdigest()[:ID_CHARACTERS]
        with contextlib.suppress(OSError):
            write_text(self.root / "uses" / id / name, f"{run_dir.absolute()}\n")

    def uses(self, id: str) -> list[Path]:
        """Run folders of this machine that read the expert and still exist; a damaged note tells of none."""
        noted = []
        for file in (self.root / "uses" / id).glob("[!.]*"):
            with contextlib.suppress(ConfigError):
                noted.append(expanded(read_text(file).strip()))
        return sorted(path for path in noted if path.is_absolute() and path.exists())

    @contextmanager
    def _lock(
        self, name: str, wait: bool = True, before_waiting: Callable[[], object] = lambda: None
    ) -> Iterator[None]:
        """Holds a name against other processes; the kernel frees it when a process ends in any way."""

        def on_held(holder: str) -> None:
            who = holder or "another process"
            if not wait:
                raise ConfigError(
                    f"expert {name}: a live process builds it in {self.root} ({who}); wait for it, or end it"
                )
            from common.progress import say

            say(f"waiting: {who} works on {name} in the registry {self.root}; one at a time writes it")
            before_waiting()

        path = self.root / "building" / f"{name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with lock(path, this_process(), on_held):
            yield

    @staticmethod
    def _read(folder: Path) -> ExpertRecord:
        file = folder / RECORD
        return parse_record(read_bytes(file, "an expert's record"), str(file), folder)


def _has_record(folder: Path) -> bool:
    """Also where it cannot be told, so that such an expert is listed as damaged."""
    try:
        return (folder / RECORD).exists()
    except PermissionError:
        return True


def _other_weights(record: ExpertRecord) -> Iterator[str]:
    try:
        found = weights_sha256(record.model_path)
    except ConfigError as error:
        yield str(error)
        return
    if found != record.weights_sha256:
        yield f"its weights have digest {found[:12]}, recorded was {record.weights_sha256[:12]}"


def refuse_problems(record: ExpertRecord, problems: list[str], place: str | None = None) -> None:
    """Raises ConfigError with all problems of an expert in one message, if there are any."""
    if problems:
        raise ConfigError(f"expert {record.id} at {place or record.path}: {'; '.join(problems)}. {REPAIR}")
