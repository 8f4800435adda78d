"""The registry of built experts: found again by what they were made from, never by a path.

An expert's folder `<root>/experts/<id>/` holds `model/` (Hugging Face format, or a peft adapter),
`learning_curve.jsonl` and `record.json`. The folder appears whole or not at all, so a half-written expert is
never visible. A build in progress lies in `<root>/building/<id>/`, from where a stopped one continues.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from configs.load import ConfigError
from teachers.adapters import weights_sha256

RECORD = "record.json"
MODEL = "model"
LEARNING_CURVE = "learning_curve.jsonl"
ID_CHARACTERS = 16


@dataclass(frozen=True)
class ExpertRecord:
    """Where an expert comes from and what it is."""

    id: str
    """Digest of `identity`."""
    domain: str
    """Name of the domain it was built for."""
    identity: dict[str, Any]
    """All that decides its weights: base, recipe, reward, data, lengths."""
    weights_sha256: str
    """Digest of its weight files."""
    prompts: int
    """Prompts it was trained on."""
    final_reward: float | None
    """Mean reward of the last tenth of its steps, in [0, 1]."""
    wall_seconds: float
    """Time of all attempts together."""
    attempts: int
    """1 for an uninterrupted build."""
    created: str
    """End of the build, ISO 8601, UTC."""
    versions: dict[str, str]
    """Packages and machine."""
    path: str
    """The expert's folder."""

    @property
    def model_path(self) -> str:
        """Folder of the model."""
        return str(Path(self.path) / MODEL)


def expert_id(identity: Mapping[str, Any]) -> str:
    """The id that an expert with this identity has."""
    text = json.dumps(identity, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:ID_CHARACTERS]


@dataclass(frozen=True)
class Registry:
    """Built experts under one folder."""

    root: Path

    def list(self) -> list[ExpertRecord]:
        """All experts, oldest first."""
        found = [self._read(file.parent) for file in (self.root / "experts").glob(f"[!.]*/{RECORD}")]
        return sorted(found, key=lambda record: record.created)

    def find(self, id: str) -> ExpertRecord | None:
        """The expert with this id, or None where it is not built."""
        folder = self.folder(id)
        return self._read(folder) if (folder / RECORD).exists() else None

    def show(self, id: str) -> ExpertRecord:
        """The expert with this id or unique beginning of one; raises ConfigError where there is none."""
        matches = [record for record in self.list() if record.id.startswith(id)]
        if len(matches) != 1:
            known = ", ".join(record.id for record in self.list()) or "none"
            raise ConfigError(
                f"expert {id!r}: {len(matches)} experts match in {self.root}; built experts: {known}"
            )
        return matches[0]

    def verify(self, id: str) -> ExpertRecord:
        """Reads the expert's weights again; raises ConfigError if they are not those recorded."""
        record = self.show(id)
        found = weights_sha256(record.model_path)
        if found != record.weights_sha256:
            raise ConfigError(
                f"expert {record.id} at {record.path}: its weights have digest {found[:12]}, "
                f"recorded was {record.weights_sha256[:12]}; delete the folder and build it again"
            )
        return record

    def folder(self, id: str) -> Path:
        """Where an expert with this id is kept."""
        return self.root / "experts" / id

    @contextmanager
    def building(self, id: str) -> Iterator[Path]:
        """Folder of a build in progress, held against other processes (they wait)."""
        folder = self.root / "building" / id
        folder.mkdir(parents=True, exist_ok=True)
        with (self.root / "building" / f"{id}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder

    @staticmethod
    def _read(folder: Path) -> ExpertRecord:
        values = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        known = {field.name for field in fields(ExpertRecord)}
        return ExpertRecord(
            **{key: value for key, value in values.items() if key in known} | {"path": str(folder)}
        )


def record_json(record: ExpertRecord) -> dict[str, Any]:
    """The record as it is stored: without the folder, which may move."""
    return {key: value for key, value in asdict(record).items() if key != "path"}
