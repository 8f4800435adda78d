"""The published JSON Schema: an editor accepts what `protege` accepts, and refuses what it refuses."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from common.errors import ConfigError
from configs import schema_doc
from configs.blocks import baselines, benchmarks, objective
from configs.json_schema import editor_schema
from configs.load import load_config
from configs.reading.explain import kind_of, members
from tests.helpers.paths import ROOT

jsonschema = pytest.importorskip("jsonschema")

RUNS = sorted((ROOT / "configs" / "runs").glob("*.yaml"))
SCHEMA = json.loads(schema_doc.json_schema())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

GOOD: dict[str, Any] = {
    "name": "demo",
    "student": "org/model",
    "domains": {
        "math": {
            "expert": {"kind": "rl", "steps": 5},
            "prompts": {"kind": "file", "path": "a.jsonl"},
            "reward": "math",
            "benchmarks": ["aime24", {"kind": "math", "name": "mine", "path": "b.jsonl"}],
        },
    },
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """GOOD with a value at a dotted path; a number enters a list."""
    data = copy.deepcopy(GOOD)
    node: Any = data
    *above, last = [int(part) if part.isdecimal() else part for part in path.split(".")]
    for part in above:
        node = node[part] if isinstance(node, list) else node.setdefault(part, {})
    node[last] = value
    return data


def loads(data: dict[str, Any], folder: Path) -> bool:
    (folder / "c.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    try:
        load_config(folder / "c.yaml")
    except ConfigError:
        return False
    return True


def test_it_is_a_valid_schema_and_each_call_makes_the_same():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert editor_schema() == editor_schema() == SCHEMA


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_every_shipped_config_is_valid(path):
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert [error.message for error in VALIDATOR.iter_errors(data)] == []


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_every_shipped_config_with_a_wrong_key_is_not(path):
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    (name, *_) = data["domains"]
    data["domains"][name]["expert"]["stepz"] = 1
    assert not VALIDATOR.is_valid(data)


VALID = [
    ("objective.estimator", "full"),
    ("objective.estimator", {"kind": "topk", "k": 8}),
    ("objective.reference", "teacher_base"),
    ("objective.reward_scale", "auto"),
    ("objective.reward_scale", 1),
    ("domains.math.objective", {"reward_scale": "auto"}),
    ("domains.math.objective", None),
    ("domains.math.benchmarks.0", {"kind": "standard", "name": "aime24", "limit": 3}),
    ("domains.math.expert", {"kind": "adapter", "path": "./a"}),
    ("domains.math.prompts", {"kind": "hub", "path": "a/b", "columns": {"prompt": "q", "answer": None}}),
    ("baselines", ["opd", {"kind": "grpo", "learning_rate": 1e-6}, {"kind": "sft", "learning_rate": 1}]),
    ("training.learning_rate", 1),
    ("chat_template", {"enable_thinking": False}),
]
INVALID = [
    ("trainig", {}),
    ("training.stepz", 3),
    ("training.steps", "3"),
    ("training.steps", 0),
    ("training.steps", True),
    ("training.steps", 2.5),
    ("training.schedule", "linear"),
    ("student", None),
    ("domains", {}),
    ("domains", {"a b": GOOD["domains"]["math"]}),
    ("domains.math.reward", "maths"),
    ("domains.math.expert", {"steps": 3}),
    ("domains.math.expert", {"kind": "rll"}),
    ("domains.math.expert", {"kind": "model"}),
    ("domains.math.expert", {"kind": "rl", "path": "./a"}),
    ("domains.math.prompts", "a.jsonl"),
    ("domains.math.prompts", {"path": "a.jsonl"}),  # a block of a union is chosen by its kind
    ("domains.math.benchmarks", "aime24"),
    ("domains.math.benchmarks.0", "aime42"),
    ("domains.math.benchmarks.1", {"kind": "math", "name": "mine"}),
    ("objective.estimator", "fulll"),
    ("objective.estimator", {"k": 8}),
    ("objective.reference", "teacher"),
    ("objective.reward_scale", "Auto"),
    ("objective.reward_scale", -1),
    ("baselines", "opd"),
    ("baselines", ["odp"]),
    ("baselines", [{"kind": "opd", "learning_rate": 1e-6}]),
    ("baselines", [{"kind": "grpo", "learning_rate": 0}]),
]


@pytest.mark.parametrize(("path", "value"), VALID, ids=str)
def test_editor_and_loading_accept(path, value, tmp_path):
    data = changed(path, value)
    assert [error.message for error in VALIDATOR.iter_errors(data)] == []
    assert loads(data, tmp_path)


@pytest.mark.parametrize(("path", "value"), INVALID, ids=str)
def test_editor_and_loading_refuse(path, value, tmp_path):
    data = changed(path, value)
    assert not VALIDATOR.is_valid(data)
    assert not loads(data, tmp_path)


def blocks(node: Any):
    """Every object with keys of its own, with its place."""
    if isinstance(node, dict):
        if "properties" in node:
            yield node
        for below in node.values():
            yield from blocks(below)


def test_no_block_takes_unknown_keys():
    found = [node for node in blocks(SCHEMA) if node.get("type") == "object"]
    assert len(found) > 20
    assert [node["title"] for node in found if node.get("additionalProperties") is not False] == []


def test_every_block_and_every_key_of_the_file_is_described_in_one_line():
    described = [SCHEMA, *SCHEMA["$defs"].values()]
    assert [node["title"] for node in described if not node.get("description")] == []
    assert [key for key, node in SCHEMA["properties"].items() if not node.get("description")] == []
    assert "\n" not in "".join(node["description"] for node in described)


def test_a_block_of_a_union_must_say_its_kind():
    unions = [node for node in _mappings(SCHEMA) if "discriminator" in node]
    assert len(unions) >= 5
    for union in unions:
        for reference in union["discriminator"]["mapping"].values():
            assert "kind" in SCHEMA["$defs"][reference.rpartition("/")[2]]["required"]


def _mappings(node: Any):
    if isinstance(node, dict):
        yield node
    for below in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _mappings(below)


@pytest.mark.parametrize(
    ("names", "union"),
    [
        (objective.EstimatorName, objective.Estimator),
        (objective.ReferenceName, objective.Reference),
        (baselines.BaselineName, baselines.Baseline),
    ],
)
def test_names_that_stand_for_a_block_are_the_kinds_without_required_options(names, union):
    alone = {
        kind_of(model)
        for model in members(union)
        if [name for name, field in model.model_fields.items() if field.is_required() and name != "kind"]
        == []
    }
    assert set(get_args(names)) == alone


def test_the_standard_benchmarks_are_those_that_a_name_may_stand_for():
    assert get_args(benchmarks.StandardName) == benchmarks.BENCHMARKS


@pytest.mark.parametrize(
    "key, value",
    [
        ("mixing", "balanced"),
        ("mixing", {"kind": "balanced", "order": "curriculum"}),
        ("routing", "learned"),
        ("routing", {"kind": "learned", "features": "tfidf", "otherwise": {"domain": "math"}}),
        ("routing", {"kind": "agreement", "margin": 0.1, "otherwise": "drop"}),
    ],
)
def test_a_name_in_place_of_a_block_is_valid_for_editors_too(tmp_path, key, value):
    config = GOOD | {key: value}
    assert loads(config, tmp_path)
    assert [error.message for error in VALIDATOR.iter_errors(config)] == []
