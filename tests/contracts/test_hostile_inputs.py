"""Broken and hostile prompt files: each is refused by one clear message, never by a traceback."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from configs.load import ConfigError
from configs.prompts import FilePrompts, LocalPrompts, PromptColumns, PromptSource, VerlPrompts
from configs.routing import LabelRouting
from routing.routers import route
from routing.sources import load_prompts
from tests.unit.cli_runner import protege
from tests.unit.tiny_model import config_dict, write_config

GOOD = b'{"prompt": "q", "answer": 1}\n'


def parquet(rows: list[dict[str, Any]], names: list[str] | None = None) -> bytes:
    import io

    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pylist(rows)
    file = io.BytesIO()
    pyarrow.parquet.write_table(table.rename_columns(names) if names else table, file)
    return file.getvalue()


ROWS = [{"prompt": "q", "answer": "a"}]
WHOLE_GZIP, WHOLE_PARQUET = gzip.compress(GOOD * 1000), parquet(ROWS * 1000)

NOT_PARQUET = "not a readable Parquet file"

FILES: dict[str, tuple[str, bytes, str]] = {
    "no JSON": ("a.jsonl", GOOD + b'{"prompt"\n', "a.jsonl:2: not a line of JSON"),
    "a list a line": ("a.jsonl", b'\n["q"]\n', "a.jsonl:2: a line must be a JSON object, got ['q']"),
    "binary": ("a.jsonl", bytes(range(256)), "a.jsonl:1: not a line of JSON"),
    "not UTF-8": ("a.jsonl", b'{"prompt": "\xff", "answer": 1}\n', "a.jsonl:1: not a line of JSON"),
    "deep nesting": ("a.jsonl", b"[" * 200_000, "a.jsonl:1: not a line of JSON"),
    "a key twice": ("a.jsonl", b'{"prompt": "q", "answer": 1, "answer": 2}', "key 'answer' is given twice"),
    "NaN answer": ("a.jsonl", b'{"prompt": "q", "answer": NaN}', "column 'answer' is no JSON value: nan"),
    "lone surrogate": (
        "a.jsonl",
        b'{"prompt": "q\\ud800", "answer": 1}',
        "row 1: column 'prompt' holds \\ud800, half of a character (a lone surrogate)",
    ),
    "lone surrogate in an answer": (
        "a.jsonl",
        b'{"prompt": "q", "answer": {"x": ["\\udfff"]}}',
        "row 1: column 'answer' holds \\udfff",
    ),
    "lone surrogate in a chat": (
        "a.jsonl",
        b'{"prompt": [{"role": "user", "content": "\\ud800"}], "answer": 1}',
        "row 1: column 'prompt' holds \\ud800",
    ),
    "empty prompt": (
        "a.jsonl",
        GOOD + b'{"prompt": " ", "answer": 1}',
        "row 2: the prompt (column 'prompt') is empty",
    ),
    "null prompt": (
        "a.jsonl",
        b'{"prompt": null, "answer": 1}',
        "row 1: the prompt (column 'prompt') is empty",
    ),
    "wrong column": (
        "a.jsonl",
        b'{"question": "q", "answer": 1}',
        "row 1: no column 'prompt'; columns there: question, answer",
    ),
    "nothing": ("a.jsonl", b"\n", "a.jsonl: holds no rows"),
    "truncated gzip": ("a.jsonl.gz", WHOLE_GZIP[:-20], "not a readable gzip file"),
    "no gzip": ("a.jsonl.gz", GOOD, "not a readable gzip file: Not a gzipped file"),
    "broken gzip": (
        "a.jsonl.gz",
        WHOLE_GZIP[:12] + b"\xff" * 8 + WHOLE_GZIP[20:],
        "not a readable gzip file",
    ),
    "an object of lists": ("a.json", b'{"prompt": ["q"]}', "a .json file must hold a list of objects"),
    "a list of lists": (
        "a.json",
        b'[{"prompt": "q", "answer": 1}, [1]]',
        "row 2: a row must be a JSON object",
    ),
    "truncated JSON": ("a.json", b'[{"prompt": "q", ', "a.json: not JSON: "),
    "lines in .json": ("a.json", GOOD * 2, "a.json: not JSON: Extra data"),
    "ragged CSV, short": ("a.csv", b"prompt,answer\nq\n", "row 1: the header has 2 fields, this row not"),
    "ragged CSV, long": ("a.csv", b"prompt,answer\nq,1\nq,1,2\n", "row 2: the header has 2 fields"),
    "open quote": ("a.csv", b'prompt,answer\n"q,1\n', "not valid CSV"),
    "CSV not UTF-8": ("a.csv", b"prompt,answer\n\xff,1\n", "not valid CSV"),
    "a header twice": ("a.csv", b"prompt,answer,answer\nq,1,2\n", "two columns have the name 'answer'"),
    "empty CSV": ("a.csv", b"", "a.csv: holds no rows"),
    "no Parquet": ("a.parquet", b"PAR0", NOT_PARQUET),
    "truncated Parquet": ("a.parquet", WHOLE_PARQUET[:-30], NOT_PARQUET),
    "broken Parquet": ("a.parquet", WHOLE_PARQUET[:4] + b"\xff" * 60 + WHOLE_PARQUET[64:], NOT_PARQUET),
    "a Parquet column twice": (
        "a.parquet",
        parquet([{"prompt": "q", "answer": "a", "x": "b"}], ["prompt", "answer", "answer"]),
        "two columns have the name 'answer'",
    ),
    "bytes as answer": (
        "a.parquet",
        parquet([{"prompt": "q", "answer": b"a"}]),
        "row 1: column 'answer' is no JSON value",
    ),
    "another kind of file": ("a.txt", b"q", "unknown kind of prompt file; valid: .jsonl, .jsonl.gz, "),
}


def refusal(config: PromptSource, owner: str | None = "math") -> str:
    with pytest.raises(ConfigError) as caught:
        load_prompts(config, owner)
    (problem,) = caught.value.problems
    assert "Traceback" not in problem and "\n" not in problem and len(problem) < 600
    return problem


@pytest.mark.parametrize(("name", "content", "problem"), FILES.values(), ids=FILES)
def test_broken_files_are_refused(tmp_path, name, content, problem):
    (tmp_path / name).write_bytes(content)
    text = refusal(FilePrompts(path=tmp_path / name))
    assert str(tmp_path / name) in text
    assert problem in text, text


def lines(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def verl_without_prompts(folder: Path) -> PromptSource:
    (folder / "a.parquet").write_bytes(parquet([{"question": "q", "ability": "math"}]))
    return VerlPrompts(kind="verl", path=folder / "a.parquet")


def of_rows(*rows: dict[str, Any], **settings: Any) -> Callable[[Path], PromptSource]:
    return lambda folder: FilePrompts(path=lines(folder / "a.jsonl", *rows), **settings)


SOURCES: dict[str, tuple[Callable[[Path], PromptSource], str]] = {
    "no file": (lambda folder: FilePrompts(path=folder / "none.jsonl"), "none.jsonl: no such prompt file"),
    "an empty folder": (lambda folder: FilePrompts(path=folder), "the folder holds no prompt file (.jsonl"),
    "a folder named like a file": (
        lambda folder: FilePrompts(path=(folder / "a.jsonl").mkdir() or folder / "a.jsonl"),
        "a.jsonl: the folder holds no prompt file",
    ),
    "verl's format that is none": (
        lambda folder: VerlPrompts(kind="verl", path=lines(folder / "a.jsonl", ROWS[0])),
        "a.jsonl: unknown kind of prompt file; valid: .parquet",
    ),
    "verl's format without prompts": (
        verl_without_prompts,
        "row 1: no column 'prompt'; columns there: question, ability",
    ),
    "no folder": (
        lambda folder: LocalPrompts(kind="local", path=folder / "x"),
        "x: no such folder; kind: file",
    ),
    "a folder that is no data set": (
        lambda folder: LocalPrompts(kind="local", path=folder),
        "cannot be loaded as a data set: ",
    ),
    "a saved data set that is broken": (
        lambda folder: LocalPrompts(kind="local", path=lines(folder / "state.json", {"x": 1}).parent),
        "cannot be loaded as a data set: ",
    ),
    "the template divides by zero": (
        of_rows({"n": 0, "answer": 1}, template="{{ 1 / n }}"),
        "row 1: the template fails: division by zero",
    ),
    "the template writes null": (
        of_rows({"q": "x", "answer": 1}, {"q": None, "answer": 1}, template="{{ q }}"),
        "row 2: the template fails: a column that it writes is null; columns there: q, answer",
    ),
    "the template reaches into Python": (
        of_rows({"q": "x", "answer": 1}, template="{{ q.__class__.__mro__ }}"),
        "row 1: the template fails: ",
    ),
    "the template writes nothing": (
        of_rows({"q": " ", "answer": 1}, template="{{ q }}"),
        "row 1: the prompt (template) is empty",
    ),
    "a second system message": (
        of_rows(
            {"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}], "answer": 1},
            system="Be brief.",
        ),
        "row 1: the prompt has a system message already; leave `system` out",
    ),
    "a label that is a list": (
        of_rows({"prompt": "q", "answer": 1, "domain": ["math"]}),
        "label 'domain' must be the name of a domain",
    ),
}


@pytest.mark.parametrize(("make", "problem"), SOURCES.values(), ids=SOURCES)
def test_broken_sources_are_refused(tmp_path, make, problem, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path.with_name("cache"))
    text = refusal(make(tmp_path))
    assert str(tmp_path) in text and problem in text, text


def test_a_file_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    """As a user without the permission sees it; root may read everything."""
    path = lines(tmp_path / "a.jsonl", ROWS[0])
    opened = Path.open

    def refuse(self, *args, **kwargs):
        if self == path:
            raise PermissionError(13, "Permission denied")
        return opened(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    assert refusal(FilePrompts(path=path)) == f"{path}: cannot be read: Permission denied"


def test_a_folder_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert refusal(FilePrompts(path=tmp_path)) == f"{tmp_path}: cannot be read: Permission denied"


def test_an_unmapped_label_is_refused_with_its_row(tmp_path):
    rows = [{"prompt": f"q{i}", "answer": 1, "t": label} for i, label in enumerate(("m", "math", "x"))]
    config = FilePrompts(
        path=lines(tmp_path / "a.jsonl", *rows), columns=PromptColumns(label="t"), labels={"m": "math"}
    )
    with pytest.raises(ConfigError) as caught:
        route(load_prompts(config, None), LabelRouting(), ["math", "code"])
    assert str(caught.value) == (
        f"{tmp_path}/a.jsonl, row 3: label 'x' (column 't') names no domain; valid labels: math, code"
    )


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "a template that is none": ({"template": "{{ question"}, "`template` is no Jinja template: line 1: "),
    "an unknown filter": (
        {"template": "{{ q | shout }}"},
        "`template` is no Jinja template: line 1: No filter",
    ),
    "template and column": (
        {"template": "{{ q }}", "columns": {"prompt": "q"}},
        "`template` and `columns.prompt` both say what the prompt is; give one of them",
    ),
    "a label of no domain": (
        {"labels": {"m": "maths"}},
        "'m' is mapped to 'maths', which is no domain; valid: math, code",
    ),
    "an empty suffix": (
        {"suffix": ""},
        "domains.math.prompts.suffix: string should have at least 1 character",
    ),
    "an unknown key": ({"colums": {}}, "unknown key; did you mean 'columns'?"),
}


@pytest.mark.parametrize(("settings", "problem"), CONFIGS.values(), ids=CONFIGS)
def test_options_that_cannot_hold_are_refused_by_the_command(tmp_path, settings, problem):
    config = config_dict(tmp_path)
    config["domains"]["math"]["prompts"] |= settings
    result = protege("route", write_config(tmp_path, config))
    assert (result.code, result.out) == (2, "")
    (line,) = result.errors
    assert problem in line and "config.yaml" in line
