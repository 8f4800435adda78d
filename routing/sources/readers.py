"""Readers of the prompt sources: from a source's config to its rows, counted from 1."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from common.errors import ConfigError
from common.reading import LARGEST_FILE, json_rows, lines_of, opened, plain_json
from common.remote import DATA_SET_CARD, HubFiles, first_line, local_copy
from configs.blocks.prompts import FilePrompts, HubPrompts, LocalPrompts, Prompts, VerlPrompts

Row = tuple[int, dict[str, Any]]

VERL_FORMATS = (".parquet",)
SAVED_SET, SAVED_SPLITS = "state.json", "dataset_dict.json"
"""What `save_to_disk` leaves in the folder of one data set, and of several splits."""


def parts(cfg: Prompts) -> list[Prompts]:
    """The source as one config a file: a folder's files, and those of a pattern, in order of their names."""
    if cfg.kind == "file":
        suffixes = FORMATS
    elif cfg.kind == "verl":
        suffixes = VERL_FORMATS
    else:
        return [cfg]
    try:
        return [cfg.model_copy(update={"path": path}) for path in _files(cfg.path, suffixes)]
    except OSError as error:
        raise ConfigError(f"{cfg.path}: cannot be read: {error.strerror or error}") from None


def _files(path: Path, suffixes: Iterable[str]) -> list[Path]:
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


def _suffix(path: Path, suffixes: Iterable[str]) -> str | None:
    return next((suffix for suffix in suffixes if path.name.endswith(suffix)), None)


def _format(path: Path, suffixes: Iterable[str]) -> str:
    suffix = _suffix(path, suffixes)
    if suffix is None:
        raise ConfigError(f"{path}: unknown kind of prompt file; valid: {', '.join(suffixes)}")
    if not path.exists():
        raise ConfigError(f"{path}: no such prompt file")
    return suffix


# ------------------------------------------------------------------------------------------- files


def read_file(cfg: FilePrompts) -> Iterator[Row]:
    """Rows of one file of the kinds of `FORMATS`."""
    suffix = _format(cfg.path, FORMATS)
    return json_rows(cfg.path) if suffix in JSON_LINES else _read(cfg.path, READERS[suffix])


def read_verl(cfg: VerlPrompts) -> Iterator[Row]:
    """Rows of one Parquet file in verl's format."""
    _format(cfg.path, VERL_FORMATS)
    return _read(cfg.path, _read_parquet)


def _read(path: Path, rows: Callable[[IO[bytes], Path], Iterator[Row]]) -> Iterator[Row]:
    with opened(path, "a prompt file") as file:
        yield from rows(file, path)


def _read_json(file: IO[bytes], path: Path) -> Iterator[Row]:
    rows = plain_json(file.read(LARGEST_FILE + 1), str(path))
    if not isinstance(rows, list):
        raise ConfigError(
            f"{path}: a .json file must hold a list of objects, got {rows!r:.60}; one object a line is .jsonl"
        )
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise ConfigError(f"{path}, row {number}: a row must be a JSON object, got {row!r:.60}")
        yield number, row


def _read_csv(file: IO[bytes], path: Path) -> Iterator[Row]:
    import io

    csv.field_size_limit(2**31 - 1)
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    table = csv.DictReader(lines_of(text, path), strict=True)
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
                for row in _values(batch, number, path):
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a readable Parquet file: {_one_line(error)}") from None


def _values(batch: Any, before: int, path: Path) -> list[dict[str, Any]]:
    """The rows of a batch of Arrow's, with `before` rows before them."""
    try:
        return batch.to_pylist()
    except Exception:  # of many kinds: of dates that Python does not have, of unknown time zones
        for row in range(batch.num_rows):
            for name in batch.schema.names:
                try:
                    batch.column(name)[row].as_py()
                except Exception as error:
                    raise ConfigError(
                        f"{path}, row {before + row + 1}: column {name!r} holds what cannot be read: "
                        f"{first_line(error)}"
                    ) from None
        raise


def _one_line(error: Exception) -> str:
    """What a library says, in at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def _refuse_repeated(columns: list[str], path: Path) -> None:
    for column, times in Counter(columns).items():
        if times > 1:
            raise ConfigError(f"{path}: two columns have the name {column!r:.80}")


READERS: dict[str, Callable[[IO[bytes], Path], Iterator[Row]]] = {
    ".json": _read_json,
    ".parquet": _read_parquet,
    ".csv": _read_csv,
}
"""Reader of each kind of file but JSON lines, by the end of its name."""

JSON_LINES = (".jsonl", ".jsonl.gz")

FORMATS = (*JSON_LINES, *READERS)
"""Ends of the names of files that are read."""


# --------------------------------------------------------------------------------------- data sets


def hub_files(cfg: HubPrompts) -> HubFiles:
    """The data set's files on the hub; its card says which of them are which split."""
    wanted = None if cfg.data_files is None else (cfg.data_files, DATA_SET_CARD)
    return HubFiles(cfg.path, "dataset", wanted, revision=cfg.revision)


def read_hub(cfg: HubPrompts) -> Iterator[Row]:
    """Rows of a Hugging Face data set in the local cache; one that is not there is downloaded where the hub
    answers."""
    folder = local_copy(hub_files(cfg))
    import datasets

    try:
        table: Any = datasets.load_dataset(str(folder), data_files=cfg.data_files, split=cfg.split)
    # the library raises ordinary errors of many kinds (no such split, no such file)
    except Exception as error:
        cause = f"{type(error).__name__}: {_one_line(error)}"
        raise ConfigError(
            f"data set {cfg.path}[{cfg.split}] cannot be read from {folder}: {cause}; where files are "
            "missing there, `protege fetch CONFIG` completes it"
        ) from None
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


def _split(found: Any, cfg: LocalPrompts) -> Iterable[dict[str, Any]]:
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
