"""A registry at a URL: experts lie in a store that fsspec reaches, and are worked with in a local copy.

The store holds `experts/<id>/` as a local registry does. Files are uploaded first and the record last, so
that a half-written expert is never visible; a download is whole or not there, and every digest is checked.
Builds, and all else that a registry folder holds, stay on this machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import ConfigError, RunFailed
from common.files import hidden_name, json_text, new_folder, remove_folder, write_json
from common.reading import typed_json
from configs.places import registry_root
from teachers.registry.local import Registry, expert_files, refuse_problems
from teachers.registry.records import LEARNING_CURVE, RECORD, ExpertRecord, parse_record, record_json

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

CHUNK = 2**22


@dataclass(frozen=True)
class RemoteStore:
    """The experts below a URL; paths of files are within an expert's folder."""

    url: str
    fs: AbstractFileSystem
    root: str
    """The URL's path as the file system spells it."""

    def ids(self) -> list[str]:
        """Every expert with a record, sorted."""
        with self._told("cannot be read"):
            self.fs.invalidate_cache()
            if not self.fs.exists(f"{self.root}/experts"):
                return []
            paths = self.fs.find(f"{self.root}/experts", maxdepth=2)
            return sorted(path.split("/")[-2] for path in paths if path.endswith(f"/{RECORD}"))

    def content(self, id: str, name: str = RECORD) -> bytes | None:
        """A small file of an expert, None where it is not there."""
        with self._told("cannot be read"):
            self.fs.invalidate_cache()
            try:
                return self._read(id, name)
            except FileNotFoundError:
                return None

    def _read(self, id: str, name: str) -> bytes:
        content = self.fs.cat_file(self._path(id, name))
        assert isinstance(content, bytes), "one path was asked for"
        return content

    def files(self, id: str) -> list[str]:
        """Every file of an expert but its record."""
        with self._told("cannot be read"):
            self.fs.invalidate_cache()
            start = len(self._path(id, ""))
            names = [path[start:] for path in self.fs.find(self._path(id, "").rstrip("/"))]
            return sorted(name for name in names if name != RECORD and not name.startswith("."))

    def sha256(self, id: str, name: str) -> str:
        """Digest of a file's bytes, read from the store."""
        digest = hashlib.sha256()
        with self._told("cannot be read"), self.fs.open(self._path(id, name), "rb") as content:
            while chunk := content.read(CHUNK):
                assert isinstance(chunk, bytes), "it was opened as bytes"
                digest.update(chunk)
        return digest.hexdigest()

    def upload(self, id: str, folder: Path) -> None:
        """Puts an expert's folder there: what a stopped upload left is deleted, the record comes last."""
        with self._told("cannot be written", RunFailed):
            if self.fs.exists(self._path(id, "").rstrip("/")):
                self.fs.rm(self._path(id, "").rstrip("/"), recursive=True)
            for name, file in expert_files.files_in(folder).items():
                path = self._path(id, name)
                self.fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
                self.fs.put_file(str(file), path)
            if self.files(id) != [*expert_files.files_in(folder)]:
                raise RunFailed(f"registry {self.url}: another process writes expert {id} there; try again")
            self.write_record(id, (folder / RECORD).read_text(encoding="utf-8"))

    def write_record(self, id: str, text: str) -> None:
        """Writes a record at one stroke."""
        with self._told("cannot be written", RunFailed):
            hidden = self._path(id, hidden_name(RECORD))
            self.fs.pipe_file(hidden, text.encode())
            self.fs.mv(hidden, self._path(id, RECORD))

    def download(self, id: str, folder: Path) -> None:
        """Copies all files but the record into a folder."""
        for name in self.files(id):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with self._told("cannot be read"):
                self.fs.get_file(self._path(id, name), str(target))

    def remove(self, id: str) -> None:
        """Deletes an expert: the record first, so that what is left of a stopped removal is invisible."""
        with self._told("cannot be written"):
            if self.fs.exists(self._path(id, RECORD)):
                self.fs.rm_file(self._path(id, RECORD))
            if self.fs.exists(self._path(id, "").rstrip("/")):
                self.fs.rm(self._path(id, "").rstrip("/"), recursive=True)

    def _path(self, id: str, name: str) -> str:
        return f"{self.root}/experts/{id}/{name}"

    @contextmanager
    def _told(self, what: str, kind: type[Exception] = ConfigError) -> Iterator[None]:
        """A store's own errors (a network, credentials) as one message; which ones there are, fsspec leaves
        to its implementations."""
        try:
            yield
        except (ConfigError, RunFailed):
            raise
        except Exception as error:
            raise kind(f"registry {self.url}: {what}: {type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class RemoteRegistry(Registry):
    """A registry whose experts lie in a store; `root` is the folder of their local copies."""

    store: RemoteStore

    @property
    def place(self) -> str:
        return self.store.url

    def ids(self) -> list[str]:
        return self.store.ids()

    def find(self, id: str) -> ExpertRecord | None:
        content = self.store.content(id)
        where = f"{self.store.url}/experts/{id}/{RECORD}"
        return None if content is None else parse_record(content, where, self.folder(id))

    def fetch(self, record: ExpertRecord) -> ExpertRecord:
        with self._lock(f"fetch-{record.id}"):
            local = super().find(record.id)
            if local is not None and local.files == record.files is not None:
                if local != record:
                    super().update(record)
                return record
            with new_folder(self.folder(record.id)) as folder:
                self.store.download(record.id, folder)
                if record.files is not None:
                    found = expert_files.digests(folder)
                    problems = expert_files.differences(record.files, found, found.__getitem__)
                    refuse_problems(record, [*problems], self.store.url)
                write_json(folder / RECORD, record_json(record))
        return record

    def check(self, record: ExpertRecord) -> ExpertRecord:
        """As of a local registry; a local copy that is damaged is fetched anew."""
        try:
            return super().check(record)
        except ConfigError:
            with self._lock(f"fetch-{record.id}"):
                remove_folder(self.folder(record.id))
            return super().check(self.fetch(record))

    def curve(self, record: ExpertRecord) -> list[dict[str, float]]:
        if (Path(record.path) / LEARNING_CURVE).exists():
            return super().curve(record)
        lines = (self.store.content(record.id, LEARNING_CURVE) or b"").splitlines()
        place = f"{self.store.url}/experts/{record.id}/{LEARNING_CURVE}"
        return [typed_json(line, dict[str, float], f"{place}:{row}") for row, line in enumerate(lines, 1)]

    def verify(self, id: str) -> ExpertRecord:
        record = self.show(id)
        if record.files is None:
            return super().check(self.fetch(record))
        names = self.store.files(record.id)
        problems = expert_files.differences(
            record.files, names, lambda name: self.store.sha256(record.id, name)
        )
        refuse_problems(record, [*problems], self.store.url)
        return record

    def publish(self, id: str) -> ExpertRecord | None:
        """Uploads a whole expert of this machine that the store does not hold."""
        if (there := self.find(id)) is not None:
            return there
        if (local := super().find(id)) is not None:
            self.store.upload(id, self.folder(id))
        return local

    def update(self, record: ExpertRecord) -> None:
        if self.store.content(record.id) is not None:
            self.store.write_record(record.id, json_text(record_json(record)))
        super().update(record)

    def _remove(self, id: str) -> None:
        self.store.remove(id)
        super()._remove(id)


def open_remote(url: str) -> RemoteRegistry:
    """The registry at a URL; raises ConfigError where its protocol is unknown or its package is missing."""
    from fsspec.core import url_to_fs

    try:
        fs, root = url_to_fs(url.rstrip("/"))
    except ImportError as error:
        raise ConfigError(
            f"registry {url}: a package is missing: {error} (with pip, into this environment)"
        ) from None
    except ValueError as error:
        raise ConfigError(
            f"registry {url}: {error}; valid are a folder, or a URL of a protocol that fsspec knows, such as "
            "s3://bucket/experts, gs://bucket/experts or file:///mnt/experts"
        ) from None
    return RemoteRegistry(registry_root(url), RemoteStore(url.rstrip("/"), fs, root.rstrip("/")))
