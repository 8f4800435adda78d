"""Every check in one config: each problem once, in the order of the checks."""

from __future__ import annotations

import shutil
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest

from common.errors import ConfigError
from configs.load import load_config
from merging.checks.found import Preflight
from merging.checks.preflight import CHECKS, checked, preflight
from tests.helpers.tiny_model import config_dict, sum_rows, write_config, write_jsonl

HOLD = """
import sys, time
from common.locks import RunLock
with RunLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def held(tmp_path):
    """A run folder that another live process holds."""
    folder = tmp_path / "run"
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield folder
    process.kill()
    process.wait()


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """A config with one mistake for every check, on a machine that is too small."""
    config = config_dict(tmp_path)
    domains = config["domains"]
    domains["math"]["expert"] = {"kind": "model", "path": "./none"}
    domains["code"]["expert"] = {"kind": "rl", "steps": 1, "prompts_per_step": 1}
    domains["logic"] = {
        "expert": {"kind": "registered", "id": "absent"},
        "prompts": {"kind": "file", "path": "logic.jsonl"},
        "reward": "exact",
    }
    domains["math"]["benchmarks"] = [
        {"kind": "math", "name": name, "path": f"{name}.jsonl"} for name in ("absent", "sums")
    ]
    write_jsonl(tmp_path / "sums.jsonl", [{"prompt": "3+1", "answer": "4"}])
    write_jsonl(tmp_path / "math.jsonl", sum_rows(4))
    code = [("a", "x"), ("1+1", "x"), ("b", None), ("c" * 30, "x")]
    write_jsonl(tmp_path / "code.jsonl", [{"prompt": text, "answer": answer} for text, answer in code])
    write_jsonl(tmp_path / "logic.jsonl", [{"prompt": "true", "answer": "x"}])
    config |= {
        "registry": "./home",
        "overlap": {"action": "refuse"},
        "mixing": {"kind": "weighted", "weights": {"math": 1000, "code": 1000, "logic": 1}},
        "objective": {"estimator": {"kind": "topk", "k": 99}},
        "hardware": {"device": "cpu", "gpus": 3},
        "baselines": [],
    }
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2**30))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20))
    return config


def test_every_problem_once_in_the_order_of_the_checks(broken, held, tmp_path):
    with pytest.raises(ConfigError) as caught:
        preflight(load_config(write_config(tmp_path, broken)), held)
    expected = (
        ("domains.logic.expert: ", "absent"),
        (f"run folder {held}: ", "in use by a live run"),
        ("training: prompts_per_step * samples_per_prompt", "3 devices"),
        ("domains.math.expert: ", "no such model folder"),
        (f"{tmp_path}/code.jsonl, row 3: no answer", "to train the expert of domain 'code'"),
        (f"{tmp_path}/code.jsonl, row 2: domain 'code' has the same prompt", "set conflicts: drop"),
        ("domains.math.benchmarks[0]: ", "no such benchmark file"),
        ("1 training prompts repeat problems of benchmark sums", "overlap.action: refuse"),
        ("objective.estimator.k = 99", "vocabulary has 99"),
        (f"{tmp_path}/code.jsonl, row 4: the prompt has 31 tokens", "training.too_long: drop"),
        ("memory: ", "1.0 GiB available"),
        (f"run folder {held}: ", "0.0 GiB free"),
        ("mixing: domain 'logic' would have none of the", "share"),
    )
    problems = caught.value.problems
    assert len(problems) == len(expected), "\n".join(problems)
    for problem, (start, part) in zip(problems, expected, strict=True):
        assert problem.startswith(start) and part in problem


def test_every_check_says_in_one_line_what_it_refuses():
    for check in (check for line in CHECKS for check in line):
        said = (check.__doc__ or "").splitlines()
        assert len(said) == 1 and said[0].startswith("Refuses "), check.__name__


def test_a_line_ends_with_its_first_refusal_and_the_next_is_asked_all_the_same(tmp_path):
    asked = []

    def passing(found):
        asked.append("passing")

    def refusing(found):
        asked.append("refusing")
        raise ConfigError("one", "two")

    def finding(found):
        """Finds something all the same."""
        asked.append("finding")
        return found.refusing("three", disk_bytes=found.disk_bytes + 1)

    start = Preflight(
        config=load_config(write_config(tmp_path, config_dict(tmp_path))).config, run_dir=tmp_path
    )
    with pytest.raises(ConfigError) as caught:
        checked(start, ((passing, refusing, passing), (finding, passing), (passing,)))
    assert asked == ["passing", "refusing", "finding", "passing"]
    assert caught.value.problems == ("one", "two", "three")
    assert (start.problems, start.disk_bytes) == ((), 0)  # no check changes what it was given
    assert checked(start, ((passing,),)) is start
