"""What every entry of routing.sources.collect.SOURCES must do, for every file format."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.errors import ConfigError
from configs.blocks.prompts import (
    FilePrompts,
    HubPrompts,
    LocalPrompts,
    PromptColumns,
    PromptSource,
    VerlColumns,
    VerlPrompts,
)
from configs.blocks.routing import LabelRouting
from routing.routers.route import route
from routing.sources.collect import SOURCES, load_prompts
from tests.helpers.hub_server import HUB_CACHE, put_in_cache
from tests.helpers.messages import refuses
from tests.helpers.prompt_sources import Rows, save_local, write_parquet_rows, write_rows

pytestmark = pytest.mark.usefixtures("own_cache")


Config = PromptSource

HUB_SET = "somebody/set"


def _gzip(folder: Path, rows: Rows) -> Path:
    path = folder / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(write_rows(folder.parent, rows).read_bytes()))
    return path


def _json(folder: Path, rows: Rows) -> Path:
    path = folder / "rows.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def _csv(folder: Path, rows: Rows) -> Path:
    with (folder / "rows.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "rows.csv"


def _file(write: Callable[[Path, Rows], Path]) -> Callable[..., Config]:
    return lambda folder, rows, **settings: FilePrompts(path=write(folder, rows), **settings)


def _hub(folder: Path, rows: Rows, **settings: Any) -> Config:
    """A data set of the hub in the local cache."""
    file = write_rows(folder, rows)
    put_in_cache(folder.parent / HUB_CACHE, "datasets", HUB_SET, {file.name: file.read_bytes()})
    return HubPrompts(kind="hub", path=HUB_SET, data_files=file.name, **settings)


def _local_files(folder: Path, rows: Rows, **settings: Any) -> Config:
    """A folder of data files, as `load_dataset` reads it."""
    write_rows(folder, rows)
    return LocalPrompts(kind="local", path=folder, **settings)


def _verl(folder: Path, rows: Rows, **settings: Any) -> Config:
    """Parquet with the columns named as these tests name them."""
    path = write_parquet_rows(folder, rows)
    columns = VerlColumns(**settings.pop("columns", PromptColumns()).model_dump())
    return VerlPrompts(kind="verl", path=path, columns=columns, **settings)


MAKERS: dict[str, Callable[..., Config]] = {
    "file.jsonl": _file(write_rows),
    "file.parquet": _file(write_parquet_rows),
    "file.csv": _file(_csv),
    "file.json": _file(_json),
    "file.jsonl.gz": _file(_gzip),
    "verl": _verl,
    "local.saved": save_local,
    "local.files": _local_files,
    "hub": _hub,
}


def test_every_source_is_made_here():
    generated = {"reasoning_gym"}  # its rows cannot be given: test_gym_source.py
    assert {name.partition(".")[0] for name in MAKERS} == SOURCES.keys() - generated


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
class TestSource:
    def test_reads_text_answer_label_and_place(self, make, folder):
        rows = [{"prompt": f"p{i}, \u00e9\n", "answer": f"a{i}", "domain": "math"} for i in range(3)]
        prompts = load_prompts(make(folder, rows), None)
        assert [p.messages for p in prompts] == [
            ({"role": "user", "content": f"p{i}, \u00e9\n"},) for i in range(3)
        ]
        assert [(p.answer, p.label, p.row) for p in prompts] == [(f"a{i}", "math", i + 1) for i in range(3)]
        place = HUB_SET if make is _hub else str(folder)
        assert all(place in p.source for p in prompts)

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
        with refuses("row 1", "'answer'", "columns there: prompt, other"):
            load_prompts(make(folder, [{"prompt": "q", "other": "x"}]), "math")

    def test_empty_prompt_is_refused_with_its_row(self, make, folder):
        rows = [{"prompt": "q", "answer": "a"}, {"prompt": " \n", "answer": "a"}]
        with refuses("row 2", "column 'prompt'", "empty"):
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
        with refuses("row 3", "label 'other'", "column 'teacher'", "no domain"):
            route(prompts, LabelRouting(), ["math", "code"])

    def test_a_named_label_column_must_exist(self, make, folder):
        config = make(folder, [{"prompt": "q", "answer": "a"}], columns=PromptColumns(label="teacher"))
        with refuses("row 1", "'teacher'", "columns there: prompt, answer"):
            load_prompts(config, "math")

    def test_ids_depend_on_content_only(self, make, folder):
        rows = [{"prompt": f"q{i}", "answer": "a"} for i in range(3)]
        ids = [p.id for p in load_prompts(make(folder, rows), "math")]
        write_rows(folder.parent, rows[::-1])
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
        with refuses("'extra.answr'", "columns there", "extra.answer"):
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
        with refuses("row 1", "label 'domain'", "name of a domain"):
            load_prompts(config, None)


def test_absent_sources_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="no such prompt file"):
        load_prompts(FilePrompts(path=tmp_path / "none.jsonl"), "math")
    put_in_cache(tmp_path / HUB_CACHE, "datasets", HUB_SET, {"README.md": b""})
    with refuses(f"{HUB_SET}[train]", "cannot be read", "protege fetch CONFIG"):
        load_prompts(HubPrompts(kind="hub", path=HUB_SET), "math")
