"""What would end a run after hours is refused before it starts."""

from __future__ import annotations

import pytest

from configs.load import load_config
from merging.checks.preflight import preflight
from tests.helpers.messages import problems_of, says
from tests.helpers.tiny_model import config_dict, sum_rows, write_config, write_jsonl


@pytest.fixture
def config(tmp_path):
    """A config that passes."""
    return config_dict(tmp_path) | {"registry": "./home"}


def problem(tmp_path, config, run="run") -> str:
    """The one problem for which it is refused."""
    (found,) = problems_of(preflight, load_config(write_config(tmp_path, config)), tmp_path / run)
    return found


def test_a_registry_that_cannot_be_a_folder(tmp_path, config):
    (tmp_path / "home").write_text("")
    says(problem(tmp_path, config), f"registry {tmp_path / 'home'}", "file")
    config["registry"] = "./home/below"
    says(problem(tmp_path, config), f"registry {tmp_path / 'home' / 'below'}", tmp_path / "home", "file")


def test_a_run_folder_below_a_file(tmp_path, config):
    (tmp_path / "file").write_text("")
    says(problem(tmp_path, config, "file/run"), f"run folder {tmp_path}/file/run", "is a file, not a folder")


def test_a_benchmark_whose_problem_leaves_no_room_for_an_answer(tmp_path, config):
    rows = [*sum_rows(3), {"prompt": "1+" * 40 + "1", "answer": "41"}]
    write_jsonl(tmp_path / "sums.jsonl", [{"id": f"p{i}", **row} for i, row in enumerate(rows)])
    own = {"kind": "math", "name": "sums", "path": "./sums.jsonl", "suffix": ""}
    config["domains"]["math"]["benchmarks"] = [own]
    # 81 characters and a line break, one token each; the context is 64
    says(problem(tmp_path, config), "benchmark sums", "'p3'", "82 tokens", "64")
    own["limit"] = 3
    preflight(load_config(write_config(tmp_path, config)), tmp_path / "run")


def test_a_training_of_more_rows_than_a_file_has(tmp_path, config):
    config["training"] |= {"steps": 2**30, "prompts_per_step": 4}
    says(problem(tmp_path, config), "training", f"{2**32} rows", "100000000")
