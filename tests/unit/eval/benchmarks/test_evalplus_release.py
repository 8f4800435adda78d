"""EvalPlus's problem files: downloaded once into EvalPlus's own cache, whole or not at all."""

from __future__ import annotations

import gzip
import json

import pytest

from common.errors import ConfigError
from common.remote import silence
from configs.blocks.benchmarks import StandardBenchmark
from eval.benchmarks import STANDARD, open_benchmark, source_of
from eval.benchmarks.evalplus_release import EvalPlusRelease
from tests.helpers.hub_server import LoopbackHub, silent_server
from tests.helpers.messages import refuses, says

RELEASE = EvalPlusRelease("humaneval", "HumanEvalPlus", 2)
PACKED = "HumanEvalPlus.jsonl.gz"


def problem(number: int) -> dict:
    return {
        "task_id": f"HumanEval/{number}", "prompt": "def f():\n", "entry_point": "f", "atol": 0,
        "canonical_solution": "    return 1\n", "base_input": [[]], "plus_input": [[]],
    }  # fmt: skip


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Sets where EvalPlus's file is said to be on a server; returns where it is kept."""
    target = tmp_path / "cache" / "evalplus" / "HumanEvalPlus-v0.1.10.jsonl"

    def at(server: str):
        answer = (f"{server}/org/releases/resolve/v/{PACKED}", str(target))
        monkeypatch.setattr("evalplus.data.utils.get_dataset_metadata", lambda *_: answer)
        silence.cache_clear()
        return target

    yield at
    silence.cache_clear()


def hub_with(content: bytes) -> LoopbackHub:
    return LoopbackHub({("models", "org/releases"): {PACKED: content}})


def test_the_file_is_downloaded_once_and_read_from_the_cache_then(place, monkeypatch):
    rows = "".join(json.dumps(problem(number)) + "\n" for number in range(2))
    hub = hub_with(gzip.compress(rows.encode()))
    monkeypatch.setattr("eval.benchmarks.standard.humaneval_plus.SOURCE", RELEASE)
    config = StandardBenchmark(kind="standard", name="humaneval_plus")
    with hub.serving() as url:
        target = place(url)
        assert RELEASE.cached() is None and RELEASE.missing_bytes() is None
        task = open_benchmark(config)
        assert RELEASE.cached() == target and target.read_text() == rows and RELEASE.missing_bytes() == 0
        asked = len(hub.requests)
        assert open_benchmark(config).digest == task.digest and len(hub.requests) == asked
        assert RELEASE.download() == target and len(hub.requests) == asked
    says(task.source, "HumanEvalPlus v0.1.10", "2 problems")


def test_another_number_of_problems_names_the_file(place, monkeypatch):
    hub = hub_with(gzip.compress(json.dumps(problem(0)).encode()))
    monkeypatch.setattr("eval.benchmarks.standard.humaneval_plus.SOURCE", RELEASE)
    with hub.serving() as url:
        target = place(url)
        with refuses("1 problems", "not 2", target):
            open_benchmark(StandardBenchmark(kind="standard", name="humaneval_plus"))


@pytest.mark.parametrize(
    "content", [b"no gzip at all", gzip.compress(b"{}" * 1000)[:-10]], ids=["no gzip", "cut off"]
)
def test_a_damaged_download_leaves_nothing(place, content):
    with hub_with(content).serving() as url:
        target = place(url)
        with refuses(PACKED):
            RELEASE.download()
    assert not target.exists() and not list(target.parent.glob("*"))


def test_a_server_that_hangs_is_told_with_both_ways_out(place):
    with silent_server() as url:
        place(url)
        with pytest.raises(ConfigError) as caught:
            open_benchmark(StandardBenchmark(kind="standard", name="humaneval_plus"))
    says(
        str(caught.value), "benchmark humaneval_plus", "HumanEvalPlus v0.1.10", url, "protege fetch CONFIG",
        "{kind: standard, name: humaneval_plus, path: HumanEvalPlus.jsonl.gz}",
    )  # fmt: skip


@pytest.mark.parametrize("name", STANDARD)
def test_every_standard_benchmark_says_what_is_downloaded_for_it(name, tmp_path):
    source = source_of(StandardBenchmark(kind="standard", name=name))
    assert source is not None and source.title and source.server.startswith("https://")
    assert source_of(StandardBenchmark(kind="standard", name=name, path=tmp_path / "copy.jsonl")) is None
