"""Every bad input through the real command line: exit code 2, one message, no traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import cli_runner
from tests.helpers.cli_runner import ROOT, protege, subprocess_protege
from tests.helpers.messages import says
from tests.helpers.tiny_model import config_dict, sum_rows, write_config, write_jsonl, write_model

pytestmark = pytest.mark.usefixtures("in_tmp")


@pytest.fixture
def config(tmp_path):
    return config_dict(tmp_path)


def refused(config, folder: Path, *arguments: object) -> str:
    """The one message with which `check` refuses a config."""
    return cli_runner.refused("check", write_config(folder, config), *arguments)


def test_unknown_key(config, tmp_path):
    config["training"]["stepz"] = 5
    message = refused(config, tmp_path)
    says(message, "config.yaml:", "training.stepz", "unknown", "'steps'", "steps", "prompts_per_step")


def test_wrong_type(config, tmp_path):
    config["training"]["steps"] = "many"
    says(refused(config, tmp_path), "config.yaml:", "training.steps", "whole number", "'many'")


def test_domain_without_reward(config, tmp_path):
    del config["domains"]["math"]["reward"]
    says(refused(config, tmp_path), "config.yaml:", "domains.math.reward", "required", "missing")


def test_missing_dataset_column(config, tmp_path):
    config["domains"]["math"]["prompts"]["columns"] = {"prompt": "question"}
    message = refused(config, tmp_path)
    says(message, f"{tmp_path}/math.jsonl, row 1", "'question'", "columns there: prompt, answer")


def labelled(config, tmp_path, rows):
    """Move all prompts into one labelled top-level file."""
    write_jsonl(tmp_path / "all.jsonl", [*sum_rows(3, domain="math"), {"prompt": "f", "answer": "", **rows}])
    config["prompts"] = {"kind": "file", "path": "all.jsonl"}
    for domain in config["domains"].values():
        del domain["prompts"]
    return config


def test_unknown_label(config, tmp_path):
    message = refused(labelled(config, tmp_path, {"domain": "cod"}), tmp_path)
    place = f"{tmp_path}/all.jsonl, row 4"
    says(message, place, "label 'cod'", "column 'domain'", "no domain", "'code'", "math, code")


def test_missing_label(config, tmp_path):
    message = refused(labelled(config, tmp_path, {}), tmp_path)
    says(message, f"{tmp_path}/all.jsonl, row 4", "no label", "column 'domain'", "math, code")
    says(message, "routing", "learned", "rules", "agreement")


def test_labelled_prompts_are_accepted(config, tmp_path):
    path = write_config(tmp_path, labelled(config, tmp_path, {"domain": "code"}))
    assert "math: 3 prompts, 1 used" in protege("route", path).out


def test_model_path_that_does_not_exist(config, tmp_path):
    config["student"] = "./nowhere"
    says(refused(config, tmp_path), "student", f"{tmp_path}/nowhere", "no such model folder")


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        ({"extra_tokens": ("<tool>",)}, ("tokenizer", "100 tokens", "99")),
        ({"eos": "<end>"}, ("EOS", "[98]", "[97]")),
        ({"template": "{{ messages }}"}, ("chat template", "sha256")),
    ],
)
def test_teacher_that_reads_otherwise(config, tmp_path, change, facts):
    write_model(tmp_path / "code_expert", **change)
    message = refused(config, tmp_path, "--set", "baselines=[]")
    says(message, f"domains.code.expert ({tmp_path}/code_expert)", "student's", *facts)


def test_vocabulary_that_differs_from_the_tokenizers(config, tmp_path):
    write_model(tmp_path / "code_expert", vocab_size=128)
    message = refused(config | {"baselines": []}, tmp_path)
    says(message, "domains.code.expert", "vocab_size 128", "config.json", "tokenizer's 99 tokens")


def test_response_limit_beyond_the_context(config, tmp_path):
    write_model(tmp_path / "math_expert", context=32)  # 16 + 16 and one token of headroom
    message = refused(config, tmp_path)
    says(message, f"domains.math.expert ({tmp_path}/math_expert)", "context of 32 tokens", "16", "33")
    says(message, "max_prompt_tokens", "max_response_tokens")


def test_run_folder_in_use(config, tmp_path):
    hold = "import sys, time\nfrom common.locks import RunLock\nwith RunLock(sys.argv[1]):\n"
    hold += "    print('held', flush=True)\n    time.sleep(60)\n"
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        assert holder.stdout.readline() == "held\n"
        message = refused(config, tmp_path, "--run-dir", tmp_path / "run")
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    says(message, f"run folder {tmp_path}/run", "in use", f"process {holder.pid}")


def test_problems_come_one_a_line(config, tmp_path):
    config["training"]["stepz"] = config["objective"] = 5
    result = protege("check", write_config(tmp_path, config))
    assert result.code == 2
    assert [line.startswith("error: ") for line in result.errors] == [True, True]


def test_refusal_in_a_process_of_its_own(tmp_path):
    ended = subprocess_protege("check", tmp_path / "none.yaml")
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    says(line, "error", f"{tmp_path}/none.yaml", "no such file")


@pytest.mark.parametrize("command", ["eval", "report"])
def test_folders_that_are_no_run(command, tmp_path):
    says(cli_runner.refused(command, tmp_path), tmp_path, "not a run folder", "config.yaml")


@pytest.mark.parametrize("arguments", [["merge"], ["unknown"], ["check", "a", "b"], ["check", "--what"]])
def test_wrong_usage_is_exit_code_2(arguments):
    result = protege(*arguments)
    assert result.code == 2 and "Usage:" in result.err
