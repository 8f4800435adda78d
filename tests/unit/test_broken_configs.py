"""Broken configs, each with the one message that it gets: line, mistake, and the nearest right thing."""

from __future__ import annotations

import pytest

from configs.explain import nearest
from configs.load import ConfigError, load_config
from configs.schema import MergeConfig
from configs.shape import Place, keys_and_places, nearest_places

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

TOP = "valid keys: name, student, domains, "

# what is replaced, by what, the line, and how the message starts
BROKEN: dict[str, tuple[str, str, int, str]] = {
    # a key that is misspelt, at every level
    "top level": ("training:", "trainig:", 11, f"trainig: unknown key; did you mean 'training'? {TOP}"),
    "section": ("steps: 7", "stpes: 7", 12, "training.stpes: unknown key; did you mean 'steps'? valid"),
    "hyphen": ("reward_scale:", "reward-scale:", 10,
               "objective.reward-scale: unknown key; did you mean 'reward_scale'? "),
    "case": ("reward_scale:", "Reward_Scale:", 10,
             "objective.Reward_Scale: unknown key; did you mean 'reward_scale'? "),
    "domain": ("benchmarks:", "benchmark:", 8,
               "domains.math.benchmark: unknown key; did you mean 'benchmarks'? valid keys: expert, "),
    "expert": ("steps: 5", "setps: 5", 5, "domains.math.expert.setps: unknown key; did you mean 'steps'? "),
    "prompts": ("path: a", "paht: a", 6, "domains.math.prompts.path: required key is missing"),
    "columns": ("path: a.jsonl", "path: a.jsonl, columns: {answr: x}", 6,
                "domains.math.prompts.columns.answr: unknown key; did you mean 'answer'? "),
    "benchmark": ("name: mine", "name: mine, gradr: number", 8,
                  "domains.math.benchmarks[1].gradr: unknown key; did you mean 'grader'? "),
    "deep": ("  reward_scale: 1.25", "  alarms: {windw: 3}", 10,
             "objective.alarms.windw: unknown key; did you mean 'window'? "),
    "baseline": ("[opd]", "[{kind: ties, densty: 0.5}]", 13,
                 "baselines[0].densty: unknown key; did you mean 'density'? valid keys: kind, density, scal"),
    # a right key in a wrong place
    "of a section, at the top": ("name: demo", "name: demo\nlearning_rate: 1", 2,
        "learning_rate: unknown key; `learning_rate` belongs to `training`, `baselines[]` (kind sft, grpo) "
        f"or `domains.<name>.expert` (kind rl); {TOP}"),
    "of another section": ("steps: 7", "gpus: 7", 12,
        "training.gpus: unknown key; `gpus` belongs to `hardware`; valid keys: steps, "),
    "of the top, in a section": ("steps: 7", "student: x", 12,
        "training.student: unknown key; `student` belongs to the top level; valid keys: steps, "),
    "of the expert, in its domain": ("reward: math", "reward: math\n    lora_rank: 4", 8,
        "domains.math.lora_rank: unknown key; `lora_rank` belongs to `domains.<name>.expert` (kind rl); "),
    "of another kind": ("kind: rl, steps: 5", "kind: model, path: x, lora_rank: 4", 5,
        "domains.math.expert.lora_rank: unknown key; `lora_rank` belongs to `domains.<name>.expert` "
        "(kind rl); valid keys: kind, path, base"),
    "misspelt and in a wrong place": ("steps: 7", "tokens_per_devise: 7", 12,
        "training.tokens_per_devise: unknown key; `tokens_per_device` belongs to `hardware`; valid keys: "),
    "the field's word": ("reward_scale:", "lambda:", 10,
        "objective.lambda: unknown key; did you mean 'reward_scale'? valid keys: reward_scale, "),
    "like nothing": ("steps: 7", "zzz: 7", 12, "training.zzz: unknown key; valid keys: steps, "),
    # kinds and values
    "kind": ("kind: rl", "kind: RL", 5, "domains.math.expert.kind: unknown kind 'RL'; did you mean 'rl'? "),
    "kind by name": ("[opd]", "[odp]", 13, "baselines[0].kind: unknown kind 'odp'; did you mean 'opd'? vali"),
    "estimator": ("  reward_scale: 1.25", "  estimator: topkk", 10,
                  "objective.estimator.kind: unknown kind 'topkk'; did you mean 'topk'? "),
    "value": ("steps: 7", "schedule: cosin", 12,
              "training.schedule: got the text 'cosin'; did you mean 'cosine'? valid values: constant, cosi"),
    "standard benchmark": ("aime24", "AIME24", 8,
                           "domains.math.benchmarks[0]: got the text 'AIME24'; did you mean 'aime24'? "),
    "nothing": ("  steps: 7", "", 11, "training: expected a mapping, got nothing (null)"),
    # what is no YAML
    "tab": ("  math:", "\tmath:", 4, "not valid YAML: a tab; indent by spaces"),
    "tab after spaces": ("    reward: math", "  \treward: math", 7, "not valid YAML: "),
    "no colon": ("student: ./student", "student ./student", 2,
        "not valid YAML: no colon after the key in 'student ./student'; write `key: value`, with a space af"),
    "no space after the colon": ("reward: math", "reward:math", 7,
                                 "not valid YAML: no colon after the key in 'reward:math'; "),
    "no colon in the last line": ("baselines: [opd]", "baselines", 13,
                                  "not valid YAML: no colon after the key in 'baselines'; "),
    "no colon in the first line": ("name: demo", "name demo", 2,
        "not valid YAML: a key in the middle of a value: the line above has no colon, or the indentation is"),
    "two colons": ("name: demo", "name: demo: x", 1, "not valid YAML: a second colon in the line; put the "),
    "indentation": ("    reward: math", "   reward: math", 7,
        "not valid YAML: the line is indented otherwise than the keys that it stands among"),
    "open quote": ("name: demo", "name: 'demo", 1, "not valid YAML: a quote that is opened here is not clos"),
    "open brace": ("steps: 5}", "steps: 5", 6,
                   "not valid YAML: expected ',' or '}', but got ':', in the mapping that opens on line 5"),
    "at sign": ("name: demo", "name: @demo", 1, "not valid YAML: a value cannot start with '@'; put the val"),
    "asterisk": ("name: demo", "name: *demo", 1, "not valid YAML: found undefined alias 'demo' (`*` refers "),
    "key twice": ("reward: math", "reward: math\n    reward: code", 8,
                  "key 'reward' is given twice; first on line 7"),
    "section twice": ("baselines: [opd]", "training: {steps: 3}", 13,
                      "key 'training' is given twice; first on line 11"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_one_message_with_its_line(name, tmp_path):
    old, new, line, expected = BROKEN[name]
    assert GOOD.count(old) >= 1
    path = tmp_path / "c.yaml"
    path.write_text(GOOD.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    first, *more = caught.value.problems
    assert first.startswith(f"{path}:{line}: {expected}")
    assert "\n" not in first
    assert len(more) == (1 if name == "prompts" else 0)  # what is missing, and what stands in its place


def test_the_good_one_is_good(tmp_path):
    (tmp_path / "c.yaml").write_text(GOOD, encoding="utf-8")
    assert load_config(tmp_path / "c.yaml").config.training.steps == 7


OVERRIDES = {
    "trainig.steps=3": "trainig: unknown key; did you mean 'training'? ",
    "training.stepz=3": "training.stepz: unknown key; did you mean 'steps'? ",
    "learning_rate=3": "learning_rate: unknown key; `learning_rate` belongs to `training`, ",
    "--training.steps=3": "--training: unknown key; did you mean 'training'? ",
    "domains.maht.expert.steps=3": "no domain 'maht'; did you mean 'math'? domains: math",
    "domains.math.expert.kind=modle": "domains.math.expert.kind: unknown kind 'modle'; did you mean 'model'?",
    "hardware.device=gpu": "hardware.device: got the text 'gpu'; did you mean 'cpu'? valid values: cpu, cuda",
    "tracking.0=wandb": "tracking is not in the file, so it has no position 0; give the whole list, tracking",
    "training.steps 3": "expected KEY=VALUE, such as training.steps=10",
}


@pytest.mark.parametrize("override", OVERRIDES)
def test_one_message_for_a_broken_override(override, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(GOOD, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(path, [override])
    (problem,) = caught.value.problems
    assert problem.startswith(f"--set {override}: {OVERRIDES[override]}")


def test_a_whole_domain_may_still_be_added_by_an_override(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(GOOD, encoding="utf-8")
    domain = "domains.code={expert: {kind: rl}, reward: code, prompts: {kind: file, path: c.jsonl}}"
    assert list(load_config(path, [domain]).config.domains) == ["math", "code"]


def test_places_name_every_block_that_has_a_key_and_no_other():
    places = keys_and_places(MergeConfig)
    assert set(places["student"]) == {Place((), ())}
    assert places["lora_rank"] == (Place(("domains", "<name>", "expert"), ("rl",)),)
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
