"""Broken and hostile prompt files: each is refused by one clear message, never by a traceback."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.errors import ConfigError
from configs.blocks.prompts import FilePrompts, LocalPrompts, PromptColumns, PromptSource, VerlPrompts
from configs.blocks.routing import LabelRouting
from routing.routers.route import route
from routing.sources.collect import load_prompts
from tests.helpers.cli_runner import refused
from tests.helpers.messages import refuses, says
from tests.helpers.tiny_model import config_dict, write_config

GOOD = b'{"prompt": "q", "answer": 1}\n'


def parquet(rows: list[dict[str, Any]], names: list[str] | None = None) -> bytes:
    import io

    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pylist(rows)
    file = io.BytesIO()
    pyarrow.parquet.write_table(table.rename_columns(names) if names else table, file)
    return file.getvalue()


def of_type(values: list[int], kind: str, *options: str) -> bytes:
    """A row whose answer is of a type of Arrow's, and holds no value of Python's."""
    import io

    import pyarrow
    import pyarrow.parquet

    answers = pyarrow.array(values, getattr(pyarrow, kind)(*options))
    table = pyarrow.table({"prompt": ["q"] * len(values), "answer": answers})
    file = io.BytesIO()
    pyarrow.parquet.write_table(table, file)
    return file.getvalue()


ROWS = [{"prompt": "q", "answer": "a"}]
WHOLE_GZIP, WHOLE_PARQUET = gzip.compress(GOOD * 1000), parquet(ROWS * 1000)

FILES: dict[str, tuple[str, bytes, tuple[str, ...]]] = {
    "no JSON": ("a.jsonl", GOOD + b'{"prompt"\n', ("a.jsonl:2", "JSON")),
    "a list a line": ("a.jsonl", b'\n["q"]\n', ("a.jsonl:2", "JSON object", "['q']")),
    "binary": ("a.jsonl", bytes(range(256)), ("a.jsonl:1", "JSON")),
    "not UTF-8": ("a.jsonl", b'{"prompt": "\xff", "answer": 1}\n', ("a.jsonl:1", "JSON")),
    "deep nesting": ("a.jsonl", b"[" * 200_000, ("a.jsonl:1", "JSON")),
    "a key twice": (
        "a.jsonl",
        b'{"prompt": "q", "answer": 1, "answer": 2}',
        ("a.jsonl:1", "key 'answer'", "twice"),
    ),
    "NaN answer": (
        "a.jsonl",
        b'{"prompt": "q", "answer": NaN}',
        ("row 1", "column 'answer'", "JSON value", "nan"),
    ),
    "lone surrogate": (
        "a.jsonl",
        b'{"prompt": "q\\ud800", "answer": 1}',
        ("row 1", "column 'prompt'", r"\ud800", "surrogate"),
    ),
    "lone surrogate in an answer": (
        "a.jsonl",
        b'{"prompt": "q", "answer": {"x": ["\\udfff"]}}',
        ("row 1", "column 'answer'", r"\udfff"),
    ),
    "lone surrogate in a chat": (
        "a.jsonl",
        b'{"prompt": [{"role": "user", "content": "\\ud800"}], "answer": 1}',
        ("row 1", "column 'prompt'", r"\ud800"),
    ),
    "empty prompt": (
        "a.jsonl",
        GOOD + b'{"prompt": " ", "answer": 1}',
        ("row 2", "column 'prompt'", "empty"),
    ),
    "null prompt": (
        "a.jsonl",
        b'{"prompt": null, "answer": 1}',
        ("row 1", "column 'prompt'", "empty"),
    ),
    "wrong column": (
        "a.jsonl",
        b'{"question": "q", "answer": 1}',
        ("row 1", "'prompt'", "columns there: question, answer"),
    ),
    "nothing": ("a.jsonl", b"\n", ("no rows",)),
    "truncated gzip": ("a.jsonl.gz", WHOLE_GZIP[:-20], ("gzip",)),
    "no gzip": ("a.jsonl.gz", GOOD, ("gzip", "Not a gzipped file")),
    "broken gzip": ("a.jsonl.gz", WHOLE_GZIP[:12] + b"\xff" * 8 + WHOLE_GZIP[20:], ("gzip",)),
    "an object of lists": ("a.json", b'{"prompt": ["q"]}', (".json", "list of objects")),
    "a list of lists": ("a.json", b'[{"prompt": "q", "answer": 1}, [1]]', ("row 2", "JSON object")),
    "truncated JSON": ("a.json", b'[{"prompt": "q", ', ("JSON",)),
    "lines in .json": ("a.json", GOOD * 2, ("JSON", "Extra data")),
    "ragged CSV, short": ("a.csv", b"prompt,answer\nq\n", ("row 1", "header", "2 fields")),
    "ragged CSV, long": ("a.csv", b"prompt,answer\nq,1\nq,1,2\n", ("row 2", "header", "2 fields")),
    "open quote": ("a.csv", b'prompt,answer\n"q,1\n', ("CSV",)),
    "CSV not UTF-8": ("a.csv", b"prompt,answer\n\xff,1\n", ("CSV",)),
    "a header twice": ("a.csv", b"prompt,answer,answer\nq,1,2\n", ("two columns", "'answer'")),
    "a million columns": ("a.csv", b",".join(b"%d" % i for i in range(10**6)), ("no rows",)),
    "empty CSV": ("a.csv", b"", ("no rows",)),
    "no Parquet": ("a.parquet", b"PAR0", ("Parquet",)),
    "truncated Parquet": ("a.parquet", WHOLE_PARQUET[:-30], ("Parquet",)),
    "broken Parquet": ("a.parquet", WHOLE_PARQUET[:4] + b"\xff" * 60 + WHOLE_PARQUET[64:], ("Parquet",)),
    "a Parquet column twice": (
        "a.parquet",
        parquet([{"prompt": "q", "answer": "a", "x": "b"}], ["prompt", "answer", "answer"]),
        ("two columns", "'answer'"),
    ),
    "bytes as answer": (
        "a.parquet",
        parquet([{"prompt": "q", "answer": b"a"}]),
        ("row 1", "column 'answer'", "JSON value"),
    ),
    "a date that Python does not have": (
        "a.parquet",
        of_type([2**31 - 1], "date32"),
        ("row 1", "column 'answer'"),
    ),
    "a time of the year 148108": (
        "a.parquet",
        of_type([2**62], "timestamp", "us"),
        ("row 1", "column 'answer'"),
    ),
    "a duration too long": ("a.parquet", of_type([2**62], "duration", "s"), ("row 1", "column 'answer'")),
    "an unknown time zone": (
        "a.parquet",
        of_type([1], "timestamp", "s", "No/Where"),
        ("row 1", "column 'answer'"),
    ),
    "another kind of file": ("a.txt", b"q", ("unknown kind", ".jsonl", ".jsonl.gz", ".parquet")),
}
"""A file's name, its content, and the facts of the message besides the file's path."""


def refusal(config: PromptSource, owner: str | None = "math") -> str:
    with pytest.raises(ConfigError) as caught:
        load_prompts(config, owner)
    (problem,) = caught.value.problems
    assert "Traceback" not in problem and "\n" not in problem and len(problem) < 600
    return problem


@pytest.mark.parametrize(("name", "content", "facts"), FILES.values(), ids=FILES)
def test_broken_files_are_refused(tmp_path, name, content, facts):
    (tmp_path / name).write_bytes(content)
    says(refusal(FilePrompts(path=tmp_path / name)), tmp_path / name, *facts)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.jsonl.gz", "a.csv"])
def test_no_more_is_read_at_once_than_a_file_may_have(tmp_path, name, monkeypatch):
    """As of a file of a terabyte without a line break."""
    for module in ("common.reading", "routing.sources.readers"):
        monkeypatch.setattr(f"{module}.LARGEST_FILE", 1000)
    content = b'"' + b" " * 2000
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    told = ("JSON",) if name == "a.json" else ("a line has more than 1000",)
    says(refusal(FilePrompts(path=tmp_path / name)), tmp_path / name, *told)


def lines(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def verl_without_prompts(folder: Path) -> PromptSource:
    (folder / "a.parquet").write_bytes(parquet([{"question": "q", "ability": "math"}]))
    return VerlPrompts(kind="verl", path=folder / "a.parquet")


def of_rows(*rows: dict[str, Any], **settings: Any) -> Callable[[Path], PromptSource]:
    return lambda folder: FilePrompts(path=lines(folder / "a.jsonl", *rows), **settings)


SOURCES: dict[str, tuple[Callable[[Path], PromptSource], tuple[str, ...]]] = {
    "no file": (lambda folder: FilePrompts(path=folder / "none.jsonl"), ("none.jsonl", "no such")),
    "an empty folder": (lambda folder: FilePrompts(path=folder), ("folder", "no prompt file", ".jsonl")),
    "a folder named like a file": (
        lambda folder: FilePrompts(path=(folder / "a.jsonl").mkdir() or folder / "a.jsonl"),
        ("a.jsonl", "folder", "no prompt file"),
    ),
    "verl's format that is none": (
        lambda folder: VerlPrompts(kind="verl", path=lines(folder / "a.jsonl", ROWS[0])),
        ("a.jsonl", "unknown kind", ".parquet"),
    ),
    "verl's format without prompts": (
        verl_without_prompts,
        ("row 1", "'prompt'", "columns there: question, ability"),
    ),
    "no folder": (
        lambda folder: LocalPrompts(kind="local", path=folder / "x"),
        ("x", "no such folder", "kind: file"),
    ),
    "a folder that is no data set": (
        lambda folder: LocalPrompts(kind="local", path=folder),
        ("data set",),
    ),
    "a saved data set that is broken": (
        lambda folder: LocalPrompts(kind="local", path=lines(folder / "state.json", {"x": 1}).parent),
        ("data set",),
    ),
    "the template divides by zero": (
        of_rows({"n": 0, "answer": 1}, template="{{ 1 / n }}"),
        ("row 1", "template", "division by zero"),
    ),
    "the template writes null": (
        of_rows({"q": "x", "answer": 1}, {"q": None, "answer": 1}, template="{{ q }}"),
        ("row 2", "template", "null", "columns there: q, answer"),
    ),
    "the template reaches into Python": (
        of_rows({"q": "x", "answer": 1}, template="{{ q.__class__.__mro__ }}"),
        ("row 1", "template"),
    ),
    "the template writes nothing": (
        of_rows({"q": " ", "answer": 1}, template="{{ q }}"),
        ("row 1", "template", "empty"),
    ),
    "a second system message": (
        of_rows(
            {"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}], "answer": 1},
            system="Be brief.",
        ),
        ("row 1", "system message", "`system`"),
    ),
    "a label that is a list": (
        of_rows({"prompt": "q", "answer": 1, "domain": ["math"]}),
        ("row 1", "label 'domain'", "name of a domain"),
    ),
}


@pytest.mark.parametrize(("make", "facts"), SOURCES.values(), ids=SOURCES)
def test_broken_sources_are_refused(tmp_path, make, facts, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path.with_name("cache"))
    says(refusal(make(tmp_path)), tmp_path, *facts)


def test_a_file_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    """As a user without the permission sees it; root may read everything."""
    path = lines(tmp_path / "a.jsonl", ROWS[0])
    opened = os.open

    def refuse(place, *args, **kwargs):
        if place == path:
            raise PermissionError(13, "Permission denied")
        return opened(place, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    says(refusal(FilePrompts(path=path)), path, "cannot be read", "Permission denied")


def test_a_folder_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    says(refusal(FilePrompts(path=tmp_path)), tmp_path, "cannot be read", "Permission denied")


def test_an_unmapped_label_is_refused_with_its_row(tmp_path):
    rows = [{"prompt": f"q{i}", "answer": 1, "t": label} for i, label in enumerate(("m", "math", "x"))]
    config = FilePrompts(
        path=lines(tmp_path / "a.jsonl", *rows), columns=PromptColumns(label="t"), labels={"m": "math"}
    )
    with refuses(f"{tmp_path}/a.jsonl, row 3", "label 'x'", "column 't'", "math, code"):
        route(load_prompts(config, None), LabelRouting(), ["math", "code"])


CONFIGS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "a template that is none": ({"template": "{{ question"}, ("`template`", "Jinja", "line 1")),
    "an unknown filter": (
        {"template": "{{ q | shout }}"},
        ("`template`", "Jinja", "line 1", "No filter", "shout"),
    ),
    "template and column": (
        {"template": "{{ q }}", "columns": {"prompt": "q"}},
        ("`template`", "`columns.prompt`", "one"),
    ),
    "a label of no domain": (
        {"labels": {"m": "maths"}},
        ("'m'", "'maths'", "math, code"),
    ),
    "an empty suffix": (
        {"suffix": ""},
        ("domains.math.prompts.suffix", "at least 1 character"),
    ),
    "an unknown key": ({"colums": {}}, ("domains.math.prompts.colums", "unknown", "'columns'")),
}


@pytest.mark.parametrize(("settings", "facts"), CONFIGS.values(), ids=CONFIGS)
def test_options_that_cannot_hold_are_refused_by_the_command(tmp_path, settings, facts):
    config = config_dict(tmp_path)
    config["domains"]["math"]["prompts"] |= settings
    says(refused("route", write_config(tmp_path, config)), "config.yaml", *facts)
