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
from configs.schema import LabelRouting
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


def _folder(folder: Path, rows: Rows) -> Path:
    """A row a file; what is no prompt file, or is hidden, is left alone."""
    for number, row in enumerate(rows):
        path = folder / f"part-{number}.jsonl"
        path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    (folder / "README.md").write_text("about these prompts")
    (folder / ".hidden.jsonl").write_text("not JSON")
    return folder


def _parquet(folder: Path, rows: Rows) -> Path:
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


def _local(folder: Path, rows: Rows, **settings: Any) -> Config:
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
    columns = settings.pop("columns", PromptColumns()).model_dump()
    return VerlPrompts(kind="verl", path=_parquet(folder, rows), columns=VerlColumns(**columns), **settings)


MAKERS: dict[str, Callable[..., Config]] = {
    "file.jsonl": _file(_jsonl),
    "file.parquet": _file(_parquet),
    "file.csv": _file(_csv),
    "file.json": _file(_json),
    "file.jsonl.gz": _file(_gzip),
    "verl": _verl,
    "local.saved": _local,
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


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.jsonl", b'{"prompt": "q", "answer": 1}\n{"prompt"\n', r"a\.jsonl:2: not a line of JSON"),
        ("a.jsonl", b'\n["q"]\n', r"a\.jsonl:2: a line must be a JSON object"),
        ("a.jsonl", b'{"prompt": "q", "answer": NaN}\n', r"row 1: column 'answer' is no JSON value"),
        ("a.jsonl", b'{"prompt": "\xff", "answer": 1}\n', r"a\.jsonl:1: not a line of JSON"),
        ("a.jsonl", b"\n", r"a\.jsonl: holds no rows"),
        ("a.csv", b"prompt,answer\nq\n", r"row 1: the header has 2 fields"),
        ("a.csv", b'prompt,answer\n"q,1\n', r"not valid CSV"),
        ("a.csv", b"prompt,answer\n\xff,1\n", r"not valid CSV"),
        ("a.parquet", b"PAR0", r"a\.parquet: not a readable Parquet file"),
        (
            "a.txt",
            b"q",
            r"unknown kind of prompt file; valid: \.jsonl, \.jsonl\.gz, \.json, \.parquet, \.csv",
        ),
    ],
)
def test_broken_files_are_refused(tmp_path, name, content, problem):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=problem):
        load_prompts(FilePrompts(path=tmp_path / name), "math")


def test_absent_sources_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="no such prompt file"):
        load_prompts(FilePrompts(path=tmp_path / "none.jsonl"), "math")
    with pytest.raises(ConfigError, match=r"data set .*none\[train\] cannot be loaded"):
        load_prompts(HubPrompts(kind="hub", path=str(tmp_path / "none")), "math")


# ---------------------------------------------------------------------------------------- many files


def test_a_folder_and_a_pattern_are_read_in_order_of_names(folder):
    rows = [{"prompt": f"q{i}", "answer": i} for i in range(3)]
    _folder(folder, rows)
    for path in (folder, folder / "part-*.jsonl"):
        prompts = load_prompts(FilePrompts(path=path), "math")
        assert [(p.text, p.source, p.row) for p in prompts] == [
            (f"q{i}", str(folder / f"part-{i}.jsonl"), 1) for i in range(3)
        ]
        assert len(load_prompts(FilePrompts(path=path, limit=2), "math")) == 2


def test_what_no_file_matches_is_refused(folder):
    with pytest.raises(ConfigError, match=r"set/\*\.csv: no file matches this pattern"):
        load_prompts(FilePrompts(path=folder / "*.csv"), "math")
    with pytest.raises(ConfigError, match=r"the folder holds no prompt file \(\.jsonl, \.jsonl\.gz, "):
        load_prompts(FilePrompts(path=folder), "math")


def test_a_saved_data_set_is_sent_to_its_own_kind(folder):
    config = _local(folder, [{"prompt": "q", "answer": "a"}])
    with pytest.raises(ConfigError, match="`save_to_disk` wrote; kind: local reads it"):
        load_prompts(FilePrompts(path=config.path), "math")


# --------------------------------------------------------------------------------------------- splits


def test_splits_of_a_local_data_set(folder):
    import datasets

    splits = {
        name: datasets.Dataset.from_list([{"prompt": name, "answer": "a"}]) for name in ("train", "more")
    }
    datasets.DatasetDict(splits).save_to_disk(str(folder))
    for name in splits:
        (prompt,) = load_prompts(LocalPrompts(kind="local", path=folder, split=name), "math")
        assert (prompt.text, prompt.source) == (name, f"{folder}[{name}]")
    with pytest.raises(ConfigError, match="holds several splits; valid: train, more"):
        load_prompts(LocalPrompts(kind="local", path=folder), "math")
    with pytest.raises(ConfigError, match="holds no split 'test'; valid: train, more"):
        load_prompts(LocalPrompts(kind="local", path=folder, split="test"), "math")


def test_a_split_of_a_data_set_without_splits_is_refused(folder):
    config = _local(folder, [{"prompt": "q", "answer": "a"}], split="train")
    with pytest.raises(ConfigError, match="holds one data set without splits; leave `split` out"):
        load_prompts(config, "math")


# -------------------------------------------------------------------------------------- verl's format


def verl_row(number: int, **extra: Any) -> dict[str, Any]:
    return {
        "data_source": "set",
        "prompt": [{"role": "user", "content": f"q{number}"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": f"a{number}"},
        "extra_info": {"index": number, **extra},
    }


def verl_source(folder: Path, rows: Rows, **settings: Any) -> VerlPrompts:
    return VerlPrompts(kind="verl", path=_parquet(folder, rows), **settings)


def test_verls_columns_are_known(folder):
    prompts = load_prompts(verl_source(folder, [verl_row(0), verl_row(1)]), None)
    assert [(p.text, p.answer, p.label, p.label_column) for p in prompts] == [
        ("q0", "a0", "math", "ability"), ("q1", "a1", "math", "ability"),
    ]  # fmt: skip


def test_the_papers_data_names_the_teacher(folder):
    """`extra_info.opd_teacher` goes before `ability`; here they differ."""
    rows = [verl_row(0, opd_teacher="code"), verl_row(1, opd_teacher="math-teacher")]
    labels = {"math-teacher": "math"}
    prompts = load_prompts(verl_source(folder, rows, labels=labels), None)
    assert [(p.label, p.label_column) for p in prompts] == [
        ("code", "extra_info.opd_teacher"), ("math", "extra_info.opd_teacher"),
    ]  # fmt: skip
    columns = VerlColumns(label="ability")
    assert {p.label for p in load_prompts(verl_source(folder, rows, columns=columns), None)} == {"math"}
    own = load_prompts(verl_source(folder, rows), None, label_field="data_source")
    assert {p.label for p in own} == {"set"}  # routing.field is never passed over


def test_a_row_without_a_teacher_does_not_take_another_label(folder):
    """The paper's fork took the math teacher there."""
    rows = [verl_row(0, opd_teacher="code"), {**verl_row(1), "extra_info": None}]
    prompts = load_prompts(verl_source(folder, rows), None)
    assert [p.label for p in prompts] == ["code", None]
    with pytest.raises(ConfigError, match=r"row 2: no label \(column 'extra_info\.opd_teacher'\)"):
        route(prompts, LabelRouting(), ["math", "code"])


def test_a_domains_own_source_does_not_read_verls_ability(folder):
    (prompt,) = load_prompts(verl_source(folder, [verl_row(0)]), "algebra")
    assert (prompt.label, prompt.owner) == (None, "algebra")


def test_a_written_training_file_can_be_read_again(folder):
    from routing.dataset import write_parquet

    prompts = load_prompts(verl_source(folder, [verl_row(i) for i in range(3)]), None)
    routed = route(prompts, LabelRouting(), ["math"])
    path = write_parquet(routed, folder / "train.parquet", {"math": "exact"}, [1.0] * 3)
    again = load_prompts(VerlPrompts(kind="verl", path=path), None)
    assert [(p.id, p.messages, p.label) for p in again] == [(p.id, p.messages, p.label) for p in prompts]
    assert [json.loads(p.answer) for p in again] == [p.answer for p in prompts]
