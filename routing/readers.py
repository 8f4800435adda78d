"""Readers of the prompt sources: from a source's config to its rows, counted from 1."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from configs.load import ConfigError
from configs.prompts import FilePrompts, HubPrompts, LocalPrompts, PromptSource, VerlPrompts

Row = tuple[int, dict[str, Any]]

SAVED_SET, SAVED_SPLITS = "state.json", "dataset_dict.json"
"""What `save_to_disk` leaves in the folder of one data set, and of several splits."""


def parts(cfg: PromptSource) -> list[PromptSource]:
    """The source as one config a file: a folder's files, and those of a pattern, in order of their names."""
    if not isinstance(cfg, FilePrompts | VerlPrompts):
        return [cfg]
    suffixes = FORMATS if isinstance(cfg, FilePrompts) else (".parquet",)
    try:
        return [cfg.model_copy(update={"path": path}) for path in _files(cfg.path, suffixes)]
    except OSError as error:
        raise ConfigError(f"{cfg.path}: cannot be read: {error.strerror or error}") from None


def _files(path: Path, suffixes) -> list[Path]:
    valid = ", ".join(suffixes)
    if path.is_dir():
        if (path / SAVED_SET).exists() or (path / SAVED_SPLITS).exists():
            raise ConfigError(f"{path}: is a data set that `save_to_disk` wrote; kind: local reads it")
        found = [file for file in sorted(path.iterdir()) if file.is_file() and not file.name.startswith(".")]
        found = [file for file in found if _suffix(file, suffixes)]
        if not found:
            raise ConfigError(f"{path}: the folder holds no prompt file ({valid})")
        return found
    if not path.exists() and any(sign in str(path) for sign in "*?["):
        import glob

        found = sorted(Path(name) for name in glob.glob(str(path)) if Path(name).is_file())
        if not found:
            raise ConfigError(f"{path}: no file matches this pattern")
        return found
    return [path]


def _suffix(path: Path, suffixes) -> str | None:
    return next((suffix for suffix in suffixes if path.name.endswith(suffix)), None)


def _format(path: Path, suffixes) -> str:
    suffix = _suffix(path, suffixes)
    if suffix is None:
        raise ConfigError(f"{path}: unknown kind of prompt file; valid: {', '.join(suffixes)}")
    if not path.is_file():
        raise ConfigError(f"{path}: no such prompt file")
    return suffix


# ------------------------------------------------------------------------------------------- files


def read_file(cfg: FilePrompts) -> Iterator[Row]:
    """Rows of one file of the kinds of `FORMATS`."""
    return _read(cfg.path, FORMATS[_format(cfg.path, FORMATS)])


def read_verl(cfg: VerlPrompts) -> Iterator[Row]:
    """Rows of one Parquet file in verl's format."""
    _format(cfg.path, (".parquet",))
    return _read(cfg.path, _read_parquet)


def _read(path: Path, rows: Callable[[IO[bytes], Path], Iterator[Row]]) -> Iterator[Row]:
    try:
        with path.open("rb") as file:
            yield from rows(file, path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None


def _read_jsonl(file: IO[bytes], path: Path) -> Iterator[Row]:
    for number, line in enumerate(file, start=1):
        if line.strip():
            yield (
                number,
                _json_object(_json(line, f"{path}:{number}", "a line of JSON"), f"{path}:{number}: a line"),
            )


def _read_jsonl_gz(file: IO[bytes], path: Path) -> Iterator[Row]:
    try:
        with gzip.open(file) as lines:
            yield from _read_jsonl(lines, path)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ConfigError(f"{path}: not a readable gzip file: {error}") from None


def _read_json(file: IO[bytes], path: Path) -> Iterator[Row]:
    rows = _json(file.read(), str(path), "JSON")
    if not isinstance(rows, list):
        raise ConfigError(
            f"{path}: a .json file must hold a list of objects, got {rows!r:.60}; one object a line is .jsonl"
        )
    for number, row in enumerate(rows, start=1):
        yield number, _json_object(row, f"{path}, row {number}: a row")


def _json(text: bytes, where: str, what: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_without_repeated_keys)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: not {what}: {error}") from None


def _without_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} is given twice")
    return row


def _json_object(row: object, what: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise ConfigError(f"{what} must be a JSON object, got {row!r:.60}")
    return row


def _read_csv(file: IO[bytes], path: Path) -> Iterator[Row]:
    import io

    csv.field_size_limit(2**31 - 1)
    table = csv.DictReader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""), strict=True)
    try:
        header = list(table.fieldnames or [])
        _refuse_repeated(header, path)
        for number, row in enumerate(table, start=1):
            if None in row or None in row.values():
                raise ConfigError(f"{path}, row {number}: the header has {len(header)} fields, this row not")
            yield number, row
    except (csv.Error, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}:{table.line_num}: not valid CSV: {error}") from None


def _read_parquet(file: IO[bytes], path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            _refuse_repeated(table.schema_arrow.names, path)
            for batch in table.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a readable Parquet file: {_one_line(error)}") from None


def _one_line(error: Exception) -> str:
    """What a library says, in at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def _refuse_repeated(columns: list[str], path: Path) -> None:
    for column in columns:
        if columns.count(column) > 1:
            raise ConfigError(f"{path}: two columns have the name {column!r}")


FORMATS: dict[str, Callable[[IO[bytes], Path], Iterator[Row]]] = {
    ".jsonl": _read_jsonl,
    ".jsonl.gz": _read_jsonl_gz,
    ".json": _read_json,
    ".parquet": _read_parquet,
    ".csv": _read_csv,
}
"""Reader of each kind of file, by the end of its name."""


# --------------------------------------------------------------------------------------- data sets


def read_hub(cfg: HubPrompts) -> Iterator[Row]:
    """Rows of a Hugging Face data set, from the hub or the local cache."""
    import datasets

    try:
        table = datasets.load_dataset(
            cfg.path, data_files=cfg.data_files, split=cfg.split, revision=cfg.revision
        )
    # the library raises ordinary errors of many kinds (no such set, split, file, network)
    except Exception as error:
        cause = f"{type(error).__name__}: {_one_line(error)}"
        raise ConfigError(f"data set {cfg.path}[{cfg.split}] cannot be loaded: {cause}") from None
    yield from enumerate(table, start=1)


def read_local(cfg: LocalPrompts) -> Iterator[Row]:
    """Rows of a data set in a folder."""
    import datasets

    if not cfg.path.is_dir():
        raise ConfigError(f"{cfg.path}: no such folder; kind: file reads single files")
    saved = any((cfg.path / name).exists() for name in (SAVED_SET, SAVED_SPLITS))
    try:
        found = datasets.load_from_disk(str(cfg.path)) if saved else datasets.load_dataset(str(cfg.path))
    except Exception as error:  # of many kinds, as above
        raise ConfigError(f"{cfg.path}: cannot be loaded as a data set: {_one_line(error)}") from None
    yield from enumerate(_split(found, cfg), start=1)


def _split(found, cfg: LocalPrompts):
    """The one split that is meant."""
    if not isinstance(found, dict):
        found = {str(found.split) if found.split else None: found}
    if cfg.split is None and len(found) == 1:
        return next(iter(found.values()))
    if cfg.split in found:
        return found[cfg.split]
    if None in found:
        raise ConfigError(f"{cfg.path}: holds one data set without splits; leave `split` out")
    wanted = "several splits" if cfg.split is None else f"no split {cfg.split!r}"
    raise ConfigError(f"{cfg.path}: holds {wanted}; valid: {', '.join(found)}")
