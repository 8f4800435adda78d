"""Rewards that are blocks, from the config to what is refused and recorded."""

from __future__ import annotations

import json

import pytest
import yaml

from configs.load import ConfigError, load_config
from merging.experts import orders
from merging.grpo import check_same_rewards
from merging.preflight import preflight
from merging.run import write_prompts
from merging.run_folder import RunFolder
from teachers.records import expert_id
from tests.unit.cli_runner import ROOT, protege
from tests.unit.tiny_model import config_dict, write_config, write_jsonl

RL = {"kind": "rl", "steps": 1, "prompts_per_step": 2, "samples_per_prompt": 2}
JUDGE = "def reward(completion, answer, finished):\n    return float(completion == answer)\n"


@pytest.fixture(autouse=True)
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def config(tmp_path):
    (tmp_path / "judge.py").write_text(JUDGE)
    found = config_dict(tmp_path)
    found["domains"]["math"]["reward"] = {"kind": "python", "path": "judge.py"}
    return found


def refused(config, tmp_path, *arguments) -> str:
    result = protege("check", write_config(tmp_path, config), *arguments)
    assert result.code == 2 and "Traceback" not in result.err, result.out + result.err
    (message,) = result.errors
    return message.removeprefix("error: ")


def test_a_path_is_read_from_the_configs_folder_and_the_check_passes(config, tmp_path):
    path = write_config(tmp_path, config)
    assert load_config(path).config.domains["math"].reward.path == tmp_path / "judge.py"
    assert protege("check", path).code == 0


@pytest.mark.parametrize(
    "source, message",
    [
        (None, "no such file"),
        ("def rewards(): pass\n", "no function 'reward'; functions there: rewards"),
        ("def reward(:\n", "SyntaxError"),
        ("import no_such_package\n", "no_such_package"),
        ("def reward(completion):\n    return 1\n", "positional argument"),
        ("def reward(completion, answer, finished):\n    return 'x'\n", "returned 'x', which is no number"),
        ("def reward(completion, answer, finished):\n    return -1\n", "returned -1; valid: 0 to 1"),
        ("def reward(completion, answer, finished):\n    return answer['a']\n", "raised TypeError"),
    ],
)
def test_a_function_that_cannot_judge_is_refused_before_anything_starts(config, tmp_path, source, message):
    (tmp_path / "judge.py").unlink()
    if source is not None:
        (tmp_path / "judge.py").write_text(source)
    said = refused(config, tmp_path)
    assert said.startswith("domains.math.reward: ") and message in said


@pytest.mark.parametrize(
    "reward, message",
    [
        ("maths", "did you mean 'math'"),
        ({"kind": "regexp", "pattern": "a"}, "unknown kind 'regexp'; did you mean 'regex'"),
        ({"kind": "regex"}, "domains.math.reward.pattern: required key is missing"),
        ({"kind": "regex", "pattern": "a", "grup": 0}, "unknown key; did you mean 'group'"),
        ({"kind": "regex", "pattern": "("}, "domains.math.reward: pattern '('"),
        ({"kind": "json_schema", "schema_path": "none.json"}, "none.json: no such file"),
        ({"kind": "reasoning_gym", "task": "chain_sum"}, "no entry of reasoning_gym's task 'chain_sum'"),
    ],
)
def test_a_block_that_is_none_is_refused(config, tmp_path, reward, message):
    config["domains"]["math"]["reward"] = reward
    assert message in refused(config, tmp_path)


def test_a_reward_that_cannot_judge_generated_prompts_is_refused(config, tmp_path):
    pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed (requirements/gym.txt)")
    math = config["domains"]["math"]
    math["prompts"] = {"kind": "reasoning_gym", "task": "chain_sum", "size": 8}
    math["reward"] = "number"
    said = protege("check", write_config(tmp_path, config)).errors[0]  # their length is another problem
    assert said == (
        "error: domains.math.reward: 'number' cannot judge prompts of reasoning_gym; "
        "{kind: reasoning_gym, task: chain_sum} can"
    )


def test_prompts_need_an_answer_only_where_the_reward_reads_one(config, tmp_path):
    write_jsonl(tmp_path / "math.jsonl", [{"prompt": f"p{i}", "answer": None} for i in range(6)])
    config["domains"]["math"]["expert"] = RL
    assert "no answer, and reward 'python " in refused(config, tmp_path)
    config["domains"]["math"]["reward"] = {"kind": "regex", "pattern": "yes"}
    assert protege("check", write_config(tmp_path, config)).code == 0


def test_another_content_of_the_file_is_another_expert(config, tmp_path):
    config["domains"]["math"]["expert"] = RL

    def id_of() -> str:
        loaded = load_config(write_config(tmp_path, config))
        return expert_id(orders(loaded.config, preflight(loaded, tmp_path / "run"))["math"].identity())

    before = id_of()
    (tmp_path / "judge.py").rename(tmp_path / "other.py")
    config["domains"]["math"]["reward"]["path"] = "other.py"
    assert id_of() == before  # the same function under another name
    (tmp_path / "other.py").write_text(JUDGE.replace("==", "!="))
    assert id_of() != before


def test_grpo_refuses_a_reward_that_has_changed_since_the_merge(config, tmp_path):
    loaded = load_config(write_config(tmp_path, config))
    found = preflight(loaded, tmp_path / "run")
    folder = RunFolder.open(tmp_path / "run", loaded, found)
    write_prompts(folder, found)
    counts = folder.counts()
    assert counts["rewards"]["code"] == "exact" and "judge.py (sha256 " in counts["rewards"]["math"]
    check_same_rewards(folder.config, counts)
    (tmp_path / "judge.py").write_text(JUDGE + "# changed\n")
    with pytest.raises(ConfigError, match="the reward of domain 'math' has changed"):
        check_same_rewards(folder.config, counts)


def test_the_examples_of_the_docs_are_valid(tmp_path):
    """Every YAML block of docs/rewards.md, in a config where the files it names are there."""
    text = (ROOT / "docs" / "rewards.md").read_text()
    blocks = [part.partition("```")[0] for part in text.split("```yaml\n")[1:]]
    (tmp_path / "judge.py").write_text(text.split("```python\n")[1].partition("```")[0])
    (tmp_path / "answer.schema.json").write_text(json.dumps({"type": "object"}))
    assert len(blocks) >= 5
    for number, written in enumerate(blocks):
        config = config_dict(tmp_path)
        config["domains"]["math"] |= yaml.safe_load(written)
        load_config(write_config(tmp_path, config), [f"name=docs{number}"])
