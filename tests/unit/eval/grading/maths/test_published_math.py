"""Published mathematics benchmarks: what is asked of the hub, their prompts and ids, and GSM8K's answers."""

import json
import sys
from importlib import import_module
from types import SimpleNamespace

import huggingface_hub.constants
import pytest

from configs.blocks.benchmarks import StandardBenchmark
from eval.benchmarks import open_benchmark
from eval.records import Completion
from tests.helpers.hub_server import HUB_CACHE, put_in_cache
from tests.helpers.messages import refuses

INSTRUCTION = "\nPlease reason step by step, and put your final answer within \\boxed{}."
SOURCES = {
    "aime24": ("HuggingFaceH4/aime_2024", None, "train", 30),
    "aime25": ("math-ai/aime25", None, "test", 30),
    "gsm8k": ("openai/gsm8k", "main", "test", 1319),
    "hmmt25_feb": ("MathArena/hmmt_feb_2025", None, "train", 30),
    "hmmt25_nov": ("MathArena/hmmt_nov_2025", None, "train", 30),
    "math500": ("HuggingFaceH4/MATH-500", None, "test", 500),
}


def standard(name, **changes):
    return StandardBenchmark(kind="standard", name=name, **changes)


def made_up(name, n):
    """Problems with the fields that the benchmark has on the hub; the answers count from 1."""
    if name == "gsm8k":
        return [{"question": f"{i}?", "answer": f"One step.\n#### {i}"} for i in range(1, n + 1)]
    id_field = {"hmmt25_feb": "problem_idx", "hmmt25_nov": "problem_idx", "math500": "unique_id"}.get(
        name, "id"
    )
    return [{"problem": f"{i}?", "answer": str(i), id_field: f"p{i}"} for i in range(1, n + 1)]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache of the hub's files that holds every set, and a library that reads `rows` in each."""
    served = SimpleNamespace(rows=[], calls=[], cache=tmp_path / HUB_CACHE)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(served.cache))

    def load_dataset(*args, **kwargs):
        served.calls.append((args, kwargs))
        return SimpleNamespace(to_list=lambda: served.rows)

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return served


@pytest.mark.parametrize("name", SOURCES)
def test_the_hub_is_asked_for_the_published_set(name, hub):
    repository, configuration, split, n = SOURCES[name]
    hub.rows = made_up(name, n)
    folder = put_in_cache(hub.cache, "datasets", repository, {"README.md": b""})
    task = open_benchmark(standard(name))
    assert hub.calls == [((str(folder), configuration), {"split": split})]
    assert [problem.reference for problem in task.problems] == [str(i) for i in range(1, n + 1)]
    assert task.problems[1].id == ("1" if name == "gsm8k" else "p2")
    assert task.problems[1].messages == ({"role": "user", "content": "2?" + INSTRUCTION},)
    licence = import_module(f"eval.benchmarks.standard.{name}").HUB.licence
    configured = "" if configuration is None else f"configuration {configuration}, "
    assert f"({configured}split {split}, revision main; licence: {licence})" in task.source


@pytest.mark.parametrize("name", SOURCES)
def test_another_number_of_problems_is_refused(name, hub):
    repository, _, _, n = SOURCES[name]
    put_in_cache(hub.cache, "datasets", repository, {"README.md": b""})
    hub.rows = made_up(name, n - 1)
    with refuses(f"benchmark {name}", f"{n - 1} problems", n):
        open_benchmark(standard(name))


@pytest.mark.parametrize("name", SOURCES)
def test_an_unreachable_hub_is_told_and_a_local_copy_needs_none(name, hub, tmp_path, monkeypatch):
    monkeypatch.setattr("common.remote.silence", lambda url: f"no way to {url}")
    with refuses(
        SOURCES[name][0], "not in the local cache", "no way to https://", "protege fetch CONFIG",
        f"kind: standard, name: {name}",
    ):  # fmt: skip
        open_benchmark(standard(name))
    assert hub.calls == []
    path = tmp_path / "copy.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in made_up(name, 2)))
    task = open_benchmark(standard(name, path=path))
    assert [problem.reference for problem in task.problems] == ["1", "2"]


def gsm8k(folder, *answers):
    path = folder / "test.jsonl"
    path.write_text("".join(json.dumps({"question": "How many?", "answer": a}) + "\n" for a in answers))
    return open_benchmark(standard("gsm8k", path=path))


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("500*2=<<500*2=1000>>1000\n#### 1,000", "1000"),
        ("#### 1,234,567", "1234567"),
        ("#### -12 ", "-12"),
        ("####0.5", "0.5"),
    ],
)
def test_gsm8k_takes_the_number_after_the_mark(tmp_path, answer, number):
    assert gsm8k(tmp_path, answer).problems[0].reference == number


@pytest.mark.parametrize("answer", ["1000", "#### ", "#### 18 eggs", "#### 5\nor so"])
def test_gsm8k_refuses_a_solution_without_a_final_number(tmp_path, answer):
    with refuses("benchmark gsm8k", "problem 2", "'####'"):
        gsm8k(tmp_path, "#### 1", answer)


def test_gsm8k_reads_thousands_separators_on_both_sides(tmp_path):
    task = gsm8k(tmp_path, "#### 1,000", "#### 1000")
    given = {
        "1,000": "pass",
        "1000": "pass",
        "1{,}000": "pass",
        "1,\\!000": "pass",
        "\\$1,000": "pass",
        "1,000.00": "pass",
        "1,000 \\text{ dollars}": "pass",
        "1": "fail",
        "1,001": "fail",
        "1,00": "fail",
        "-1,000": "fail",
    }
    for problem in task.problems:
        grades = task.grade([(problem, Completion(f"So \\boxed{{{text}}}.", 9, True)) for text in given])
        assert {text: grade.verdict for text, grade in zip(given, grades, strict=True)} == given
