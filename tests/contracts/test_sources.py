"""What every entry of routing.sources.SOURCES must do, for every file format."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from configs.load import ConfigError
from configs.prompts import (
    FilePrompts,
    HubPrompts,
    LocalPrompts,
    PromptColumns,
    PromptSource,
    VerlColumns,
    VerlPrompts,
)
from configs.routing import LabelRouting
from routing.routers import route
from routing.sources import SOURCES, load_prompts

Rows = list[dict[str, Any]]
Config = PromptSource


def _jsonl(folder: Path, rows: Rows) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _gzip(folder: Path, rows: Rows) -> Path:
    path = folder / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(_jsonl(folder.parent, rows).read_bytes()))
    return path


def _json(folder: Path, rows: Rows) -> Path:
    path = folder / "rows.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def write_folder(folder: Path, rows: Rows) -> Path:
    """A row a file; what is no prompt file, or is hidden, is left alone."""
    for number, row in enumerate(rows):
        path = folder / f"part-{number}.jsonl"
        path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    (folder / "README.md").write_text("about these prompts")
    (folder / ".hidden.jsonl").write_text("not JSON")
    return folder


def write_parquet_rows(folder: Path, rows: Rows) -> Path:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "rows.parquet")
    return folder / "rows.parquet"


def _csv(folder: Path, rows: Rows) -> Path:
    with (folder / "rows.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "rows.csv"


def _file(write: Callable[[Path, Rows], Path]) -> Callable[..., Config]:
    return lambda folder, rows, **settings: FilePrompts(path=write(folder, rows), **settings)


def _hub(folder: Path, rows: Rows, **settings: Any) -> Config:
    """A data set in a local folder, which the library reads like one of the hub."""
    _jsonl(folder, rows)
    return HubPrompts(kind="hub", path=str(folder), data_files="rows.jsonl", **settings)


def save_local(folder: Path, rows: Rows, **settings: Any) -> Config:
    """A data set that `save_to_disk` wrote."""
    import datasets

    datasets.Dataset.from_list(rows).save_to_disk(str(folder / "saved"))
    return LocalPrompts(kind="local", path=folder / "saved", **settings)


def _local_files(folder: Path, rows: Rows, **settings: Any) -> Config:
    """A folder of data files, as `load_dataset` reads it."""
    _jsonl(folder, rows)
    return LocalPrompts(kind="local", path=folder, **settings)


def _verl(folder: Path, rows: Rows, **settings: Any) -> Config:
    """Parquet with the columns named as these tests name them."""
    path = write_parquet_rows(folder, rows)
    columns = VerlColumns(**settings.pop("columns", PromptColumns()).model_dump())
    return VerlPrompts(kind="verl", path=path, columns=columns, **settings)


MAKERS: dict[str, Callable[..., Config]] = {
    "file.jsonl": _file(_jsonl),
    "file.parquet": _file(write_parquet_rows),
    "file.csv": _file(_csv),
    "file.json": _file(_json),
    "file.jsonl.gz": _file(_gzip),
    "verl": _verl,
    "local.saved": save_local,
    "local.files": _local_files,
    "hub": _hub,
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "set").mkdir()
    return tmp_path / "set"


def test_every_source_is_made_here():
    assert {name.partition(".")[0] for name in MAKERS} == SOURCES.keys()


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
class TestSource:
    def test_reads_text_answer_label_and_place(self, make, folder):
        rows = [{"prompt": f"p{i}, \u00e9\n", "answer": f"a{i}", "domain": "math"} for i in range(3)]
        prompts = load_prompts(make(folder, rows), None)
        assert [p.messages for p in prompts] == [
            ({"role": "user", "content": f"p{i}, \u00e9\n"},) for i in range(3)
        ]
        assert [(p.answer, p.label, p.row) for p in prompts] == [(f"a{i}", "math", i + 1) for i in range(3)]
        assert all(str(folder) in p.source for p in prompts)

    def test_names_other_columns(self, make, folder):
        rows = [{"question": "q", "solution": "s", "topic": "math"}]
        columns = PromptColumns(prompt="question", answer="solution")
        (prompt,) = load_prompts(make(folder, rows, columns=columns), None, label_field="topic")
        assert (prompt.text, prompt.answer, prompt.label) == ("q", "s", "math")

    def test_answers_may_be_left_out(self, make, folder):
        columns = PromptColumns(answer=None)
        (prompt,) = load_prompts(make(folder, [{"prompt": "q"}], columns=columns), "math")
        assert (prompt.answer, prompt.label, prompt.owner) == (None, None, "math")

    def test_missing_column_is_named_with_the_columns_there(self, make, folder):
        with pytest.raises(ConfigError, match=r"row 1: no column 'answer'; columns there: prompt, other"):
            load_prompts(make(folder, [{"prompt": "q", "other": "x"}]), "math")

    def test_empty_prompt_is_refused_with_its_row(self, make, folder):
        rows = [{"prompt": "q", "answer": "a"}, {"prompt": " \n", "answer": "a"}]
        with pytest.raises(ConfigError, match=r"row 2: the prompt \(column 'prompt'\) is empty"):
            load_prompts(make(folder, rows), "math")

    def test_duplicates_are_dropped(self, make, folder):
        rows = [{"prompt": text, "answer": "a"} for text in ("q", "r", "q", "q")]
        assert [p.text for p in load_prompts(make(folder, rows), "math")] == ["q", "r"]

    def test_limit(self, make, folder):
        rows = [{"prompt": f"q{i}", "answer": "a"} for i in range(5)]
        assert len(load_prompts(make(folder, rows, limit=3), "math")) == 3
        assert len(load_prompts(make(folder, rows, limit=3), "math", max=2)) == 2

    def test_template_system_and_suffix(self, make, folder):
        rows = [{"question": "1+1", "unit": "apples", "answer": "2"}]
        settings = {"template": "{{ question }} {{ unit }}?\n", "system": "Be brief.", "suffix": "Think."}
        (prompt,) = load_prompts(make(folder, rows, **settings), "math")
        assert prompt.messages == (
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "1+1 apples?\nThink."},
        )
        assert (prompt.text, prompt.answer) == ("1+1 apples?\nThink.", "2")

    def test_a_template_of_a_missing_column_is_refused_with_the_row_and_the_columns(self, make, folder):
        rows = [{"question": "1+1", "answer": "2"}]
        with pytest.raises(ConfigError) as caught:
            load_prompts(make(folder, rows, template="{{ problem }}"), "math")
        assert "row 1: the template fails: 'problem' is undefined; columns there: question, answer" in str(
            caught.value
        )

    def test_labels_are_mapped_and_a_column_of_their_own_is_read(self, make, folder):
        rows = [
            {"prompt": f"q{i}", "answer": "a", "teacher": teacher, "domain": "nonsense"}
            for i, teacher in enumerate(("math-teacher", "code", "other"))
        ]
        columns = PromptColumns(label="teacher")
        prompts = load_prompts(make(folder, rows, columns=columns, labels={"math-teacher": "math"}), None)
        assert [(p.label, p.label_column) for p in prompts] == [
            ("math", "teacher"), ("code", "teacher"), ("other", "teacher")
        ]  # fmt: skip
        with pytest.raises(ConfigError, match=r"row 3: label 'other' \(column 'teacher'\) names no domain"):
            route(prompts, LabelRouting(), ["math", "code"])

    def test_a_named_label_column_must_exist(self, make, folder):
        config = make(folder, [{"prompt": "q", "answer": "a"}], columns=PromptColumns(label="teacher"))
        with pytest.raises(ConfigError, match=r"row 1: no column 'teacher'; columns there: prompt, answer"):
            load_prompts(config, "math")

    def test_ids_depend_on_content_only(self, make, folder):
        rows = [{"prompt": f"q{i}", "answer": "a"} for i in range(3)]
        ids = [p.id for p in load_prompts(make(folder, rows), "math")]
        _jsonl(folder.parent, rows[::-1])
        again = [p.id for p in load_prompts(FilePrompts(path=folder.parent / "rows.jsonl"), "math")]
        assert ids == again[::-1] and len(set(ids)) == 3


NESTED = [name for name in MAKERS if name != "file.csv"]


@pytest.mark.parametrize("name", NESTED)
class TestNested:
    """Formats that hold more than text."""

    def test_dotted_columns(self, name, folder):
        row = {"extra": {"answer": 5, "topic": "math"}, "prompt": "q"}
        columns = PromptColumns(answer="extra.answer")
        config = MAKERS[name](folder, [row], columns=columns)
        (prompt,) = load_prompts(config, None, label_field="extra.topic")
        assert (prompt.answer, prompt.label) == (5, "math")

    def test_missing_nested_column(self, name, folder):
        columns = PromptColumns(answer="extra.answr")
        config = MAKERS[name](folder, [{"prompt": "q", "extra": {"answer": 5}}], columns=columns)
        with pytest.raises(ConfigError, match=r"no column 'extra\.answr'; columns there: .*extra\.answer"):
            load_prompts(config, "math")

    def test_chat_messages(self, name, folder):
        chat = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "q"}]
        (prompt,) = load_prompts(MAKERS[name](folder, [{"prompt": chat, "answer": "a"}]), "math")
        assert prompt.messages == tuple(chat) and prompt.text == "q"

    @pytest.mark.parametrize(
        ("value", "problem"),
        [
            ([{"role": "assistant", "content": "a"}], "must end with a message of role 'user'"),
            ([{"role": "wizard", "content": "q"}], "role 'wizard'; valid: system, user, assistant"),
            ([{"role": "user", "text": "q"}], "a chat message has `role` and `content`"),
            (5, "must hold text or a list of chat messages, got 5"),
            ([], "is empty"),
        ],
    )
    def test_bad_chats_are_refused(self, name, folder, value, problem):
        rows = [{"prompt": value, "answer": "a"}]
        with pytest.raises(ConfigError) as caught:
            load_prompts(MAKERS[name](folder, rows), "math")
        assert problem in str(caught.value) and "row 1" in str(caught.value)

    def test_label_must_be_text(self, name, folder):
        config = MAKERS[name](folder, [{"prompt": "q", "answer": "a", "domain": 3}])
        with pytest.raises(ConfigError, match=r"row 1: label 'domain' must be the name of a domain"):
            load_prompts(config, None)


def test_absent_sources_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="no such prompt file"):
        load_prompts(FilePrompts(path=tmp_path / "none.jsonl"), "math")
    with pytest.raises(ConfigError, match=r"data set .*none\[train\] cannot be loaded"):
        load_prompts(HubPrompts(kind="hub", path=str(tmp_path / "none")), "math")
