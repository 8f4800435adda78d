"""Every bad input through the real command line: exit code 2, one message, no traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.cli_runner import ROOT, protege, subprocess_protege
from tests.unit.tiny_model import config_dict, sum_rows, write_config, write_jsonl, write_model


@pytest.fixture(autouse=True)
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def config(tmp_path):
    return config_dict(tmp_path)


def refused(config, folder: Path, *arguments: object) -> str:
    """The one message with which `check` refuses a config."""
    result = protege("check", write_config(folder, config), *arguments)
    assert result.code == 2, result.out + result.err
    assert "Traceback" not in result.err and result.out == ""
    (message,) = result.errors
    assert message.startswith("error: ")
    return message.removeprefix("error: ")


def test_unknown_key(config, tmp_path):
    config["training"]["stepz"] = 5
    message = refused(config, tmp_path)
    assert "config.yaml:" in message
    assert ": training.stepz: unknown key; did you mean 'steps'? valid keys: steps, prompts_per" in message


def test_wrong_type(config, tmp_path):
    config["training"]["steps"] = "many"
    assert refused(config, tmp_path).endswith("training.steps: expected a whole number, got the text 'many'")


def test_domain_without_reward(config, tmp_path):
    del config["domains"]["math"]["reward"]
    assert refused(config, tmp_path).endswith("domains.math.reward: required key is missing")


def test_missing_dataset_column(config, tmp_path):
    config["domains"]["math"]["prompts"]["columns"] = {"prompt": "question"}
    message = refused(config, tmp_path)
    assert message == f"{tmp_path}/math.jsonl, row 1: no column 'question'; columns there: prompt, answer"


def labelled(config, tmp_path, rows):
    """Move all prompts into one labelled top-level file."""
    write_jsonl(tmp_path / "all.jsonl", [*sum_rows(3, domain="math"), {"prompt": "f", "answer": "", **rows}])
    config["prompts"] = {"kind": "file", "path": "all.jsonl"}
    for domain in config["domains"].values():
        del domain["prompts"]
    return config


def test_unknown_label(config, tmp_path):
    message = refused(labelled(config, tmp_path, {"domain": "cod"}), tmp_path)
    assert message == (
        f"{tmp_path}/all.jsonl, row 4: label 'cod' (column 'domain') names no domain; did you mean 'code'? "
        "valid labels: math, code"
    )


def test_missing_label(config, tmp_path):
    message = refused(labelled(config, tmp_path, {}), tmp_path)
    assert message == (
        f"{tmp_path}/all.jsonl, row 4: no label (column 'domain'); valid labels: math, code; routing: "
        "learned, rules or agreement route prompts without one"
    )


def test_labelled_prompts_are_accepted(config, tmp_path):
    path = write_config(tmp_path, labelled(config, tmp_path, {"domain": "code"}))
    assert "math: 3 prompts, 1 used" in protege("route", path).out


def test_model_path_that_does_not_exist(config, tmp_path):
    config["student"] = "./nowhere"
    assert refused(config, tmp_path) == f"student: {tmp_path}/nowhere: no such model folder"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"extra_tokens": ("<tool>",)}, "another tokenizer than the student's: 100 tokens against 99; id"),
        ({"eos": "<end>"}, "other EOS token ids than the student's: [98] against [97]"),
        ({"template": "{{ messages }}"}, "another chat template than the student's: sha256 "),
    ],
)
def test_teacher_that_reads_otherwise(config, tmp_path, change, words):
    write_model(tmp_path / "code_expert", **change)
    message = refused(config, tmp_path, "--set", "baselines=[]")
    assert message.startswith(f"domains.code.expert ({tmp_path}/code_expert): {words}")


def test_vocabulary_that_differs_from_the_tokenizers(config, tmp_path):
    write_model(tmp_path / "code_expert", vocab_size=128)
    message = refused(config, tmp_path)
    assert "domains.code.expert" in message
    assert "vocab_size 128 in config.json differs from the tokenizer's 99 tokens" in message


def test_response_limit_beyond_the_context(config, tmp_path):
    write_model(tmp_path / "math_expert", context=32)  # 16 + 16 and one token of headroom
    message = refused(config, tmp_path)
    assert message == (
        f"domains.math.expert ({tmp_path}/math_expert): context of 32 tokens is too short for prompts of "
        "16 + responses of 16 (max_prompt_tokens, max_response_tokens) + 1 = 33"
    )


def test_run_folder_in_use(config, tmp_path):
    hold = "import sys, time\nfrom merging.lock import RunLock\nwith RunLock(sys.argv[1]):\n"
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
    assert message.startswith(f"run folder {tmp_path}/run: in use by a live run (process {holder.pid}, ")


def test_problems_come_one_a_line(config, tmp_path):
    config["training"]["stepz"] = config["objective"] = 5
    result = protege("check", write_config(tmp_path, config))
    assert result.code == 2
    assert [line.startswith("error: ") for line in result.errors] == [True, True]


def test_refusal_in_a_process_of_its_own(tmp_path):
    ended = subprocess_protege("check", tmp_path / "none.yaml")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"error: {tmp_path}/none.yaml: no such file\n"


@pytest.mark.parametrize("command", ["eval", "report"])
def test_folders_that_are_no_run(command, tmp_path):
    result = protege(command, tmp_path)
    assert result.code == 2
    assert result.errors == [f"error: {tmp_path}: not a run folder (it has no config.yaml)"]


@pytest.mark.parametrize("arguments", [["merge"], ["unknown"], ["check", "a", "b"], ["check", "--what"]])
def test_wrong_usage_is_exit_code_2(arguments):
    result = protege(*arguments)
    assert result.code == 2 and "Usage:" in result.err
