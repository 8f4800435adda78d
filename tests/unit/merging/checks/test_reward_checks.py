"""Rewards that are blocks, from the config to what is refused and recorded."""

from __future__ import annotations

import json

import pytest
import yaml

from configs.load import load_config
from merging.checks.preflight import preflight
from merging.run import write_prompts
from merging.state.run_folder import RunFolder
from merging.training.rewarded import check_same_rewards
from teachers.registry.records import expert_id
from tests.helpers import cli_runner
from tests.helpers.cli_runner import ROOT, protege
from tests.helpers.messages import refuses, says
from tests.helpers.tiny_model import config_dict, write_config, write_jsonl

pytestmark = pytest.mark.usefixtures("in_tmp")

RL = {"kind": "rl", "steps": 1, "prompts_per_step": 2, "samples_per_prompt": 2}
JUDGE = "def reward(completion, answer, finished):\n    return float(completion == answer)\n"


@pytest.fixture
def config(tmp_path):
    (tmp_path / "judge.py").write_text(JUDGE)
    found = config_dict(tmp_path)
    found["domains"]["math"]["reward"] = {"kind": "python", "path": "judge.py"}
    return found


def refused(config, tmp_path, *arguments) -> str:
    return cli_runner.refused("check", write_config(tmp_path, config), *arguments, prints=True)


def test_a_path_is_read_from_the_configs_folder_and_the_check_passes(config, tmp_path):
    path = write_config(tmp_path, config)
    assert load_config(path).config.domains["math"].reward.path == tmp_path / "judge.py"
    assert protege("check", path).code == 0


@pytest.mark.parametrize(
    "source, facts",
    [
        (None, ("no such file",)),
        ("def rewards(): pass\n", ("'reward'", "functions there: rewards")),
        ("def reward(:\n", ("SyntaxError",)),
        ("import no_such_package\n", ("no_such_package",)),
        ("def reward(completion):\n    return 1\n", ("completion, answer, finished", "positional arguments")),
        ("def reward(completion, answer, finished):\n    return 'x'\n", ("'x'", "number")),
        ("def reward(completion, answer, finished):\n    return -1\n", ("-1", "0 to 1")),
        ("def reward(completion, answer, finished):\n    return answer['a']\n", ("TypeError",)),
    ],
)
def test_a_function_that_cannot_judge_is_refused_before_anything_starts(config, tmp_path, source, facts):
    (tmp_path / "judge.py").unlink()
    if source is not None:
        (tmp_path / "judge.py").write_text(source)
    said = refused(config, tmp_path)
    assert said.startswith("domains.math.reward: ")
    says(said, "judge.py", *facts)


@pytest.mark.parametrize(
    "reward, facts",
    [
        ("maths", ("domains.math.reward", "'maths'", "'math'")),
        ({"kind": "regexp", "pattern": "a"}, ("domains.math.reward.kind", "unknown", "'regexp'", "'regex'")),
        ({"kind": "regex"}, ("domains.math.reward.pattern", "required", "missing")),
        ({"kind": "regex", "pattern": "a", "grup": 0}, ("domains.math.reward.grup", "unknown", "'group'")),
        ({"kind": "regex", "pattern": "("}, ("domains.math.reward", "pattern '('")),
        ({"kind": "json_schema", "schema_path": "none.json"}, ("none.json", "no such file")),
        ({"kind": "reasoning_gym", "task": "chain_sum"}, ("no entry", "'chain_sum'")),
    ],
)
def test_a_block_that_is_none_is_refused(config, tmp_path, reward, facts):
    config["domains"]["math"]["reward"] = reward
    says(refused(config, tmp_path), *facts)


def test_a_reward_that_cannot_judge_generated_prompts_is_refused(config, tmp_path):
    pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed (requirements/gym.txt)")
    math = config["domains"]["math"]
    math["prompts"] = {"kind": "reasoning_gym", "task": "chain_sum", "size": 8}
    math["reward"] = "number"
    said = protege("check", write_config(tmp_path, config)).errors[0]  # their length is another problem
    says(said, "domains.math.reward", "'number'", "reasoning_gym", "{kind: reasoning_gym, task: chain_sum}")


def test_prompts_need_an_answer_only_where_the_reward_reads_one(config, tmp_path):
    write_jsonl(tmp_path / "math.jsonl", [{"prompt": f"p{i}", "answer": None} for i in range(6)])
    config["domains"]["math"]["expert"] = RL
    says(refused(config, tmp_path), "math.jsonl, row 1", "no answer", "reward 'python")
    config["domains"]["math"]["reward"] = {"kind": "regex", "pattern": "yes"}
    assert protege("check", write_config(tmp_path, config)).code == 0


def test_another_content_of_the_file_is_another_expert(config, tmp_path):
    config["domains"]["math"]["expert"] = RL

    def id_of() -> str:
        loaded = load_config(write_config(tmp_path, config))
        found = preflight(loaded, tmp_path / "run")
        return expert_id(found.experts(loaded.config)["math"].order().identity())

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
    check_same_rewards(folder, "baseline `grpo`")
    (tmp_path / "judge.py").write_text(JUDGE + "# changed\n")
    with refuses("`grpo`", "reward", "domain 'math'", "changed"):
        check_same_rewards(folder, "baseline `grpo`")


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
