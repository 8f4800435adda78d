"""Routing: labels, balance, the schedule of a training, overlap, and verl's file."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from configs.blocks.prompts import FilePrompts
from configs.blocks.routing import LabelRouting
from configs.schema import MergeConfig
from routing import overlap
from routing.dataset import write_parquet
from routing.mix import balance, by_domain, schedule
from routing.routers.decisions import RoutedPrompt
from routing.routers.route import route
from routing.sources.collect import Prompt, collect_prompts, load_prompts
from tests.helpers.messages import refuses
from tests.helpers.tiny_model import write_jsonl

DOMAINS = ["math", "code"]


def prompt(text: str, label: str | None = None, owner: str | None = None, row: int = 1) -> Prompt:
    return Prompt(text, ({"role": "user", "content": text},), "a", label, "f.jsonl", row, owner)


def routed(**counts: int) -> list[RoutedPrompt]:
    return [
        RoutedPrompt(prompt(f"{name}{i}"), name, "test")
        for name, count in counts.items()
        for i in range(count)
    ]


# ------------------------------------------------------------------------------------------- labels


def test_label_and_owner_route():
    prompts = [prompt("a", label="code"), prompt("b", owner="math"), prompt("c", "math", "math")]
    result = route(prompts, LabelRouting(), DOMAINS).prompts
    assert [item.domain for item in result] == ["code", "math", "math"]
    assert [item.reason for item in result] == [
        "label domain=code",
        "row of domains.math.prompts",
        "label domain=math",
    ]


@pytest.mark.parametrize(
    ("bad", "facts"),
    [
        (
            prompt("x", label=None, row=7),
            ("no label", "math, code", "routing", "learned", "rules", "agreement"),
        ),
        (
            prompt("x", label="maths", row=7),
            ("label 'maths'", "no domain", "'math'", "math, code"),
        ),
        (
            prompt("x", label="code", owner="math", row=7),
            ("label 'code'", "source", "domains.math.prompts", "top-level prompts"),
        ),
    ],
)
def test_a_prompt_that_cannot_be_routed_is_refused(bad, facts):
    with refuses("f.jsonl, row 7", "column 'domain'", *facts):
        route([prompt("a", "math"), bad, prompt("b", "code")], LabelRouting(), DOMAINS)


def test_a_domain_without_prompts_is_refused():
    with refuses("domain 'code'", "no prompt", "math: 1", "code: 0"):
        route([prompt("a", "math")], LabelRouting(), DOMAINS)


# --------------------------------------------------------------------------------- sources together


def test_collects_all_sources_and_counts_duplicates(tmp_path):
    shared = [
        {"prompt": "p1", "answer": 1, "domain": "math"},
        {"prompt": "p1", "answer": 1, "domain": "math"},
        {"prompt": "p1", "answer": 1, "domain": "code"},
    ]
    write_jsonl(tmp_path / "shared.jsonl", shared)
    write_jsonl(tmp_path / "math.jsonl", [{"prompt": "p2", "answer": "x"}])
    domain = {"expert": {"kind": "rl"}, "reward": "exact"}
    config = MergeConfig.model_validate(
        {
            "name": "n",
            "student": "s",
            "prompts": {"kind": "file", "path": tmp_path / "shared.jsonl"},
            "domains": {
                "math": {**domain, "prompts": {"kind": "file", "path": tmp_path / "math.jsonl"}},
                "code": domain,
            },
        }
    )
    found = collect_prompts(config)
    assert found.duplicates == 1
    assert [(p.text, p.label, p.owner, p.row) for p in found.prompts] == [
        ("p1", "math", None, 1),
        ("p1", "code", None, 3),  # the same text for another teacher is no duplicate
        ("p2", None, "math", 1),
    ]
    assert len({p.id for p in found.prompts}) == 3


def test_limits_read_no_further(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "a", "answer": 1}\n{"prompt": "b", "answer": 1}\nnot json\n')
    assert len(load_prompts(FilePrompts(path=path, limit=2), "math")) == 2
    assert len(load_prompts(FilePrompts(path=path, limit=2), "math", max=1)) == 1
    with refuses("a.jsonl:3", "JSON"):
        load_prompts(FilePrompts(path=path), "math")


# ---------------------------------------------------------------------------------------------- mix


def test_balance_downsamples_to_the_smallest_and_keeps_order():
    items = routed(math=10, code=4, chem=7)
    kept = balance(items, seed=3)
    assert Counter(item.domain for item in kept) == {"math": 4, "code": 4, "chem": 4}
    positions = [items.index(item) for item in kept]
    assert positions == sorted(positions) and len(set(positions)) == 12


def test_balance_is_a_function_of_the_seed():
    items = routed(math=50, code=5)
    assert balance(items, 1) == balance(items, 1)
    assert balance(items, 1) != balance(items, 2)


def test_balance_keeps_a_domains_choice_when_another_domain_is_added():
    def math(items):
        return [item for item in balance(items, 1) if item.domain == "math"]

    assert math(routed(math=50, code=5)) == math(routed(math=50, code=5, chem=9))


@pytest.mark.parametrize("per_step", [1, 2, 3, 6, 7])
def test_every_step_holds_the_domains_equally(per_step):
    rows = schedule(routed(a=5, b=11, c=3), steps=9, prompts_per_step=per_step, seed=1)
    assert len(rows) == 9 * per_step
    for step in range(9):
        counts = Counter(row.domain for row in rows[step * per_step : (step + 1) * per_step])
        shares = [counts[name] for name in "abc"]
        assert max(shares) - min(shares) <= 1
    totals = Counter(row.domain for row in rows)
    assert max(totals.values()) - min(totals.values()) <= 1  # the remainder rotates


def test_every_pass_holds_every_prompt_once_in_a_new_order():
    rows = schedule(routed(a=6, b=4), steps=12, prompts_per_step=4, seed=5)
    of_a = [row.prompt.id for row in rows if row.domain == "a"]
    passes = [of_a[start : start + 6] for start in range(0, 24, 6)]
    assert all(sorted(one) == [f"a{i}" for i in range(6)] for one in passes)
    assert len({tuple(one) for one in passes}) > 1


def test_schedule_is_a_function_of_the_seed_and_extends():
    items = routed(a=6, b=4)
    assert schedule(items, 3, 4, 1) == schedule(items, 3, 4, 1)
    assert schedule(items, 3, 4, 1) != schedule(items, 3, 4, 2)
    assert schedule(items, 5, 4, 1)[:12] == schedule(items, 3, 4, 1)


def test_known_order_is_the_same_in_every_process():
    order = [row.prompt.id for row in schedule(routed(a=3, b=3), 1, 4, seed=42)]
    assert order == ["a0", "b0", "a2", "b1"]  # recorded once; a resumed run must schedule the same rows


def test_groups_keep_order():
    assert [item.prompt.id for item in by_domain(routed(a=2, b=1))["a"]] == ["a0", "a1"]


# ------------------------------------------------------------------------------------------ overlap

PROBLEM = "A train leaves the station at noon and travels north at sixty miles per hour until evening."


def test_exact_overlap_ignores_case_and_spacing_but_no_sign():
    found = overlap.check(
        [prompt("What  IS 37+48?"), prompt("What is 37*48?"), prompt("what is 37 + 48 ?")],
        ["unrelated", "What is 37+48?"],
    )
    assert [(o.prompt.text, o.problem, o.kind) for o in found] == [
        ("What  IS 37+48?", 1, "exact"),
        ("what is 37 + 48 ?", 1, "exact"),
    ]


def test_13_gram_overlap():
    words = PROBLEM.split()
    thirteen = "Hint: " + " ".join(words[2:15]) + ", is it not?"
    twelve = "Hint: " + " ".join(words[2:14]) + ", is it not?"
    (found,) = overlap.check([prompt(thirteen), prompt(twelve)], [PROBLEM])
    assert (found.prompt.text, found.kind) == (thirteen, "13-gram")
    assert found.shared == "leaves the station at noon and travels north at sixty miles per hour"


def test_wording_that_many_problems_share_is_no_overlap():
    wording = "please reason step by step and put your final answer within the box at the end"
    problems = [f"{number} apples. {wording}" for number in range(3)]
    assert overlap.check([prompt(f"Seven pears. {wording}")], problems) == []
    assert len(overlap.check([prompt(f"Seven pears. {wording}")], problems[:2])) == 1


# ------------------------------------------------------------------------------------- verl's file


def test_parquet_rows(tmp_path: Path):
    import pyarrow.parquet

    items = [
        RoutedPrompt(prompt("1+1"), "math", "r"),
        RoutedPrompt(
            Prompt("id2", ({"role": "user", "content": "f"},), {"tests": [1, "é"]}, None, "s", 2), "code", "r"
        ),
    ]
    rewards = {"math": "math", "code": "code"}
    path = write_parquet(items, tmp_path / "new" / "t.parquet", rewards, [1.25, 0], {"code": 2})
    first, second = pyarrow.parquet.read_table(path).to_pylist()
    assert first == {
        "data_source": "math",
        "prompt": [{"role": "user", "content": "1+1"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": '"a"'},
        "extra_info": {"index": 0, "id": "1+1", "domain": "math", "reward": "math", "split": "train"},
        "teacher": "math",
        "reward_scale": 1.25,
        "loss_weight": 1.0,
    }
    assert json.loads(second["reward_model"]["ground_truth"]) == {"tests": [1, "é"]}
    assert (second["teacher"], second["reward_scale"], second["extra_info"]["index"]) == ("code", 0.0, 1)
    assert second["loss_weight"] == 2.0
    assert [file.name for file in path.parent.iterdir()] == ["t.parquet"]


def test_parquet_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    import pyarrow.parquet

    path = tmp_path / "t.parquet"
    path.write_bytes(b"old")

    def half(_table, target):
        Path(target).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(pyarrow.parquet, "write_table", half)
    with pytest.raises(OSError, match="disk full"):
        write_parquet(routed(a=1), path, {"a": "math"}, [1.0])
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["t.parquet"]


def test_verl_reads_the_file(tmp_path):
    datasets = pytest.importorskip("datasets")
    path = write_parquet(routed(a=3), tmp_path / "t.parquet", {"a": "math"}, [1.0] * 3)
    table = datasets.load_dataset("parquet", data_files=str(path), cache_dir=str(tmp_path / "cache"))["train"]
    assert table["teacher"][:] == ["a", "a", "a"]
