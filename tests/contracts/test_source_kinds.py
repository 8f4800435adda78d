"""What the kinds of prompt sources do beside what all do: many files, splits, verl's columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from configs.blocks.prompts import FilePrompts, LocalPrompts, VerlColumns, VerlPrompts
from configs.blocks.routing import LabelRouting
from routing.routers.route import route
from routing.sources.collect import load_prompts
from tests.helpers.messages import refuses
from tests.helpers.prompt_sources import Rows, save_local, write_folder, write_parquet_rows

pytestmark = pytest.mark.usefixtures("own_cache")


# ---------------------------------------------------------------------------------------- many files


def test_a_folder_and_a_pattern_are_read_in_order_of_names(folder):
    rows = [{"prompt": f"q{i}", "answer": i} for i in range(3)]
    write_folder(folder, rows)
    for path in (folder, folder / "part-*.jsonl"):
        prompts = load_prompts(FilePrompts(path=path), "math")
        assert [(p.text, p.source, p.row) for p in prompts] == [
            (f"q{i}", str(folder / f"part-{i}.jsonl"), 1) for i in range(3)
        ]
        assert len(load_prompts(FilePrompts(path=path, limit=2), "math")) == 2


def test_what_no_file_matches_is_refused(folder):
    with refuses("set/*.csv", "no file"):
        load_prompts(FilePrompts(path=folder / "*.csv"), "math")
    with refuses("folder", "no prompt file", ".jsonl", ".jsonl.gz"):
        load_prompts(FilePrompts(path=folder), "math")


def test_a_saved_data_set_is_sent_to_its_own_kind(folder):
    config = save_local(folder, [{"prompt": "q", "answer": "a"}])
    with refuses("`save_to_disk`", "kind: local"):
        load_prompts(FilePrompts(path=config.path), "math")


# --------------------------------------------------------------------------------------------- splits


def test_splits_of_a_local_data_set(folder):
    import datasets

    rows = {name: [{"prompt": name, "answer": "a"}] for name in ("train", "more")}
    splits = {name: datasets.Dataset.from_list(own) for name, own in rows.items()}
    datasets.DatasetDict(splits).save_to_disk(str(folder))
    for name in splits:
        (prompt,) = load_prompts(LocalPrompts(kind="local", path=folder, split=name), "math")
        assert (prompt.text, prompt.source) == (name, f"{folder}[{name}]")
    with refuses("several splits", "train, more"):
        load_prompts(LocalPrompts(kind="local", path=folder), "math")
    with refuses("split 'test'", "train, more"):
        load_prompts(LocalPrompts(kind="local", path=folder, split="test"), "math")


def test_a_split_of_a_data_set_without_splits_is_refused(folder):
    config = save_local(folder, [{"prompt": "q", "answer": "a"}], split="train")
    with refuses("without splits", "`split`"):
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
    return VerlPrompts(kind="verl", path=write_parquet_rows(folder, rows), **settings)


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
    with refuses("row 2", "no label", "column 'extra_info.opd_teacher'"):
        route(prompts, LabelRouting(), ["math", "code"])


def test_a_domains_own_source_does_not_read_verls_ability(folder):
    (prompt,) = load_prompts(verl_source(folder, [verl_row(0)]), "algebra")
    assert (prompt.label, prompt.owner) == (None, "algebra")


def test_a_written_training_file_can_be_read_again(folder):
    from routing.dataset import write_parquet

    prompts = load_prompts(verl_source(folder, [verl_row(i) for i in range(3)]), None)
    routed = route(prompts, LabelRouting(), ["math"]).prompts
    path = write_parquet(routed, folder / "train.parquet", {"math": "exact"}, [1.0] * 3)
    again = load_prompts(VerlPrompts(kind="verl", path=path), None)
    assert [(p.id, p.messages, p.label) for p in again] == [(p.id, p.messages, p.label) for p in prompts]
    assert [json.loads(p.answer) for p in again] == [p.answer for p in prompts]
