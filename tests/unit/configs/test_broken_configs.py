"""Broken configs, each with the one message that it gets: line, mistake, and the nearest right thing."""

from __future__ import annotations

import pytest

from common.errors import ConfigError
from common.words import nearest
from configs.load import load_config
from configs.reading.shape import Place, keys_and_places, nearest_places
from configs.schema import MergeConfig
from tests.helpers.messages import says

GOOD = """\
name: demo
student: ./student
domains:
  math:
    expert: {kind: rl, steps: 5}
    prompts: {kind: file, path: a.jsonl}
    reward: math
    benchmarks: [aime24, {kind: math, name: mine, path: b.jsonl}]
objective:
  reward_scale: 1.25
training:
  steps: 7
baselines: [opd]
"""

TOP = ("name", "student", "domains")

BROKEN: dict[str, tuple[str, str, int, tuple[str, ...]]] = {
    # a key that is misspelt, at every level
    "top level": ("training:", "trainig:", 11, ("trainig", "unknown", "'training'", *TOP)),
    "section": ("steps: 7", "stpes: 7", 12, ("training.stpes", "unknown", "'steps'")),
    "hyphen": ("reward_scale:", "reward-scale:", 10, ("objective.reward-scale", "unknown", "'reward_scale'")),
    "case": ("reward_scale:", "Reward_Scale:", 10, ("objective.Reward_Scale", "unknown", "'reward_scale'")),
    "domain": ("benchmarks:", "benchmark:", 8,
               ("domains.math.benchmark", "unknown", "'benchmarks'", "expert", "prompts", "reward")),
    "expert": ("steps: 5", "setps: 5", 5, ("domains.math.expert.setps", "unknown", "'steps'")),
    "prompts": ("path: a", "paht: a", 6, ("domains.math.prompts.path", "required", "missing")),
    "columns": ("path: a.jsonl", "path: a.jsonl, columns: {answr: x}", 6,
                ("domains.math.prompts.columns.answr", "unknown", "'answer'")),
    "benchmark": ("name: mine", "name: mine, gradr: number", 8,
                  ("domains.math.benchmarks[1].gradr", "unknown", "'grader'")),
    "deep": ("  reward_scale: 1.25", "  alarms: {windw: 3}", 10,
             ("objective.alarms.windw", "unknown", "'window'")),
    "baseline": ("[opd]", "[{kind: ties, densty: 0.5}]", 13,
                 ("baselines[0].densty", "unknown", "'density'", "kind", "density", "scale")),
    # a right key in a wrong place
    "of a section, at the top": ("name: demo", "name: demo\nlearning_rate: 1", 2,
        ("unknown", "`learning_rate`", "`training`", "`polish`",
         "`baselines[]` (kind sft, grpo, opd_more, teacher_more)", *TOP)),
    "of another section": ("steps: 7", "gpus: 7", 12,
                           ("training.gpus", "unknown", "`gpus`", "`hardware`", "steps")),
    "of the top, in a section": ("steps: 7", "student: x", 12,
                                 ("training.student", "unknown", "`student`", "top level", "steps")),
    "of the expert, in its domain": ("reward: math", "reward: math\n    lora_rank: 4", 8,
        ("domains.math.lora_rank", "unknown", "`lora_rank`", "`domains.<name>.expert` (kind rl)")),
    "of another kind": ("kind: rl, steps: 5", "kind: model, path: x, lora_rank: 4", 5,
        ("domains.math.expert.lora_rank", "unknown", "`lora_rank`", "`domains.<name>.expert` (kind rl)",
         "kind", "path", "base")),
    "misspelt and in a wrong place": ("steps: 7", "tokens_per_devise: 7", 12,
        ("training.tokens_per_devise", "unknown", "`tokens_per_device`", "`hardware`")),
    "the field's word": ("reward_scale:", "lambda:", 10, ("objective.lambda", "unknown", "'reward_scale'")),
    "like nothing": ("steps: 7", "zzz: 7", 12, ("training.zzz", "unknown", "steps")),
    # kinds and values
    "kind": ("kind: rl", "kind: RL", 5, ("domains.math.expert.kind", "unknown", "'RL'", "'rl'")),
    "kind by name": ("[opd]", "[odp]", 13, ("baselines[0].kind", "unknown", "'odp'", "'opd'")),
    "estimator": ("  reward_scale: 1.25", "  estimator: topkk", 10,
                  ("objective.estimator.kind", "unknown", "'topkk'", "'topk'")),
    "value": ("steps: 7", "schedule: cosin", 12,
              ("training.schedule", "'cosin'", "'cosine'", "constant", "cosine")),
    "standard benchmark": ("aime24", "AIME24", 8, ("domains.math.benchmarks[0]", "'AIME24'", "'aime24'")),
    "nothing": ("  steps: 7", "", 11, ("training", "mapping", "null")),
    # what is no YAML
    "tab": ("  math:", "\tmath:", 4, ("YAML", "tab", "spaces")),
    "tab after spaces": ("    reward: math", "  \treward: math", 7, ("YAML",)),
    "no colon": ("student: ./student", "student ./student", 2,
                 ("YAML", "colon", "'student ./student'", "`key: value`")),
    "no space after the colon": ("reward: math", "reward:math", 7, ("YAML", "colon", "'reward:math'")),
    "no colon in the last line": ("baselines: [opd]", "baselines", 13, ("YAML", "colon", "'baselines'")),
    "no colon in the first line": ("name: demo", "name demo", 2,
                                   ("YAML", "colon", "line above", "indentation")),
    "two colons": ("name: demo", "name: demo: x", 1, ("YAML", "colon")),
    "indentation": ("    reward: math", "   reward: math", 7, ("YAML", "line", "keys")),
    "open quote": ("name: demo", "name: 'demo", 1, ("YAML", "quote")),
    "open brace": ("steps: 5}", "steps: 5", 6, ("YAML", "','", "'}'", "':'", "mapping", "line 5")),
    "at sign": ("name: demo", "name: @demo", 1, ("YAML", "'@'")),
    "asterisk": ("name: demo", "name: *demo", 1, ("YAML", "alias", "'demo'", "`*`")),
    "key twice": ("reward: math", "reward: math\n    reward: code", 8, ("'reward'", "twice", "line 7")),
    "section twice": ("baselines: [opd]", "training: {steps: 3}", 13, ("'training'", "twice", "line 11")),
}  # fmt: skip
"""What is replaced, by what, the message's line, and its facts."""


@pytest.mark.parametrize("name", BROKEN)
def test_one_message_with_its_line(name, tmp_path):
    old, new, line, facts = BROKEN[name]
    assert GOOD.count(old) >= 1
    path = tmp_path / "c.yaml"
    path.write_text(GOOD.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    first, *more = caught.value.problems
    place = f"{path}:{line}: "
    assert first.startswith(place) and "\n" not in first
    says(first.removeprefix(place), *facts)
    assert len(more) == (1 if name == "prompts" else 0)  # what is missing, and what stands in its place


def test_the_good_one_is_good(tmp_path):
    (tmp_path / "c.yaml").write_text(GOOD, encoding="utf-8")
    assert load_config(tmp_path / "c.yaml").config.training.steps == 7


OVERRIDES = {
    "trainig.steps=3": ("trainig", "unknown", "'training'"),
    "training.stepz=3": ("training.stepz", "unknown", "'steps'"),
    "learning_rate=3": ("unknown", "`learning_rate`", "`training`"),
    "--training.steps=3": ("--training", "unknown", "'training'"),
    "domains.maht.expert.steps=3": ("'maht'", "'math'", "domains: math"),
    "domains.math.expert.kind=modle": ("domains.math.expert.kind", "unknown", "'modle'", "'model'"),
    "hardware.device=gpu": ("hardware.device", "'gpu'", "'cpu'", "cpu, cuda"),
    "tracking.0=wandb": ("tracking", "position 0", "whole list"),
    "training.steps 3": ("KEY=VALUE", "training.steps=10"),
}


@pytest.mark.parametrize("override", OVERRIDES)
def test_one_message_for_a_broken_override(override, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(GOOD, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(path, [override])
    (problem,) = caught.value.problems
    place = f"--set {override}: "
    assert problem.startswith(place)
    says(problem.removeprefix(place), *OVERRIDES[override])


def test_a_whole_domain_may_still_be_added_by_an_override(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(GOOD, encoding="utf-8")
    domain = "domains.code={expert: {kind: rl}, reward: code, prompts: {kind: file, path: c.jsonl}}"
    assert list(load_config(path, [domain]).config.domains) == ["math", "code"]


def test_places_name_every_block_that_has_a_key_and_no_other():
    places = keys_and_places(MergeConfig)
    assert set(places["student"]) == {Place((), ())}
    assert set(places["lora_rank"]) == {
        Place(("training",), ()),
        Place(("domains", "<name>", "expert"), ("rl",)),
    }
    assert {place.path[-2:] for place in places["answer"]} >= {
        ("prompts", "columns"),
        ("validation", "columns"),
    }
    (benchmark,) = (place for place in places["problem_field"] if place.path[-1] == "[]")
    assert str(benchmark).startswith("`domains.<name>.benchmarks[]` (kind math")
    assert "kind" not in places


def test_the_nearest_place_comes_first_and_the_same_block_alone():
    steps = keys_and_places(MergeConfig)["steps"]
    assert nearest_places(steps, ("domains", "math"))[0].path == ("domains", "<name>", "expert")
    assert nearest_places(steps, ())[0].path == ("training",)
    assert [p.path for p in nearest_places(steps, ("domains", "x", "expert"))] == [
        ("domains", "<name>", "expert")
    ]


def test_nearest_ignores_case_and_gives_the_name_as_it_is_written():
    assert nearest("RL", ("rl", "model")) == "rl"
    assert nearest("aime24", ("AIME24",)) == "AIME24"
    assert nearest("zzz", ("rl", "model")) is None
