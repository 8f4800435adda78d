"""Whatever is asked of a domain is asked in its mode: every reader of prompts has the same text."""

from __future__ import annotations

from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from configs.load import load_config
from eval.records import Completion
from merging.baselines import sft
from merging.checks.prompts import modes as check_modes
from merging.exopd.job import merge_job
from merging.expert_kinds.built import BuiltExpert
from merging.training import probe as probe_module
from merging.training.agreement import prompt_signals
from merging.training.start_distance import measure_start
from routing.routers.agreement_file import decisions_key
from routing.sources.collect import Prompt
from teachers.build import ExpertOrder, expert_job
from teachers.evaluation import settings
from teachers.models.fingerprint import fingerprint
from teachers.registry.local import Registry
from teachers.registry.records import expert_id
from tests.helpers.expert_orders import store_expert
from tests.helpers.messages import problems_of, refuses, says
from tests.helpers.mode_template import TEMPLATE, WITHOUT_SYSTEM
from tests.helpers.opened_runs import OpenedRun, open_run
from tests.helpers.tiny_model import config_dict, sum_rows, write_config, write_jsonl, write_model

MODES = ("domains.math.chat_template={think: true}", "domains.code.system_prompt=Py.")
TEXTS = {"math": "T {}\n", "code": "[Py.]{}\n"}
"""What a model reads of a prompt, by domain."""


@pytest.fixture
def opened(tmp_path):
    """Opens a run in these modes; the models' template reads them."""
    config, runs = config_dict(tmp_path), []
    for name, value in (("student", 0.5), ("math_expert", 0.6), ("code_expert", 0.7)):
        write_model(tmp_path / name, value=value, template=TEMPLATE)

    def opened(*overrides: str) -> OpenedRun:
        runs.append(tmp_path / f"run{len(runs)}")  # another mode is another merge
        return open_run(load_config(write_config(tmp_path, config), overrides), runs[-1])

    return opened


def reader(run: OpenedRun):
    """(token ids) -> text."""
    tokenizer = AutoTokenizer.from_pretrained(run.found.student)
    return lambda ids: tokenizer.decode(list(ids))


def expected(domain: str, texts) -> set[str]:
    return {TEXTS[domain].format(text) for text in texts}


MATH, CODE = [f"{i}+1" for i in range(6)], [f"def f{i}" for i in range(6)]


def test_rows_of_training_and_validation_have_the_system_message(opened, tmp_path):
    write_jsonl(tmp_path / "valid.jsonl", [{"prompt": "def g", "answer": "x"}])
    validation = ("domains.code.validation={kind: file, path: valid.jsonl}", "training.validate_every=1")
    folder = opened(*MODES, *validation).written().folder
    for row in pq.read_table(folder.prompts_file).to_pylist():
        first = row["prompt"][0]
        assert (first == {"role": "system", "content": "Py."}) == (row["teacher"] == "code")
        assert len(row["prompt"]) == (2 if row["teacher"] == "code" else 1)
    (row,) = pq.read_table(folder.validation_prompts).to_pylist()
    assert [message["role"] for message in row["prompt"]] == ["system", "user"]
    job = merge_job(folder.config, "merge", {}, folder.prompts_file, folder.train)
    assert (job.chat_template, job.chat_templates) == ({}, {"math": {"think": True}})


def test_lengths_count_the_mode(opened):
    assert opened().found.longest_prompt == {"math": 4, "code": 7}
    assert opened(*MODES).found.longest_prompt == {"math": 6, "code": 12}
    with refuses("code.jsonl", "12 tokens", "training.max_prompt_tokens = 11"):
        opened(*MODES, "training.max_prompt_tokens=11")


def test_what_is_compared_and_routed_is_without_the_system_prompt(opened, tmp_path):
    write_jsonl(
        tmp_path / "more.jsonl", [{"prompt": "def f0", "answer": "x"}, {"prompt": "def g", "answer": "x"}]
    )
    write_jsonl(tmp_path / "bench.jsonl", [{"id": "p", "prompt": "def f1", "answer": "x"}])
    rules = "routing={kind: rules, rules: [{domain: code, keywords: [def]}]}"
    shared = "prompts={kind: file, path: more.jsonl}"
    benchmark = "domains.code.benchmarks=[{kind: math, name: sums, path: bench.jsonl}]"
    run = opened(*MODES, rules, shared, benchmark).written()
    assert [(item.reason, item.prompt.text) for item in run.found.dropped] == [("duplicate", "def f0")]
    assert [(item.domain, item.overlap.kind) for item in run.found.overlaps] == [("code", "exact")]
    rows = pq.read_table(run.folder.prompts_file).to_pylist()
    assert all(row["prompt"][0]["content"] == "Py." for row in rows if row["teacher"] == "code")


def test_a_second_system_message_is_refused_with_its_row(opened, tmp_path):
    own = [{"role": "system", "content": "Mine."}, {"role": "user", "content": "def g"}]
    write_jsonl(tmp_path / "code.jsonl", [{"prompt": "def f", "answer": "x"}, {"prompt": own, "answer": "x"}])
    opened()
    (problem,) = problems_of(opened, *MODES, "training.max_prompt_tokens=24")
    says(problem, "code.jsonl, row 2", "domains.code.system_prompt", "1 such prompts")
    write_jsonl(tmp_path / "code.jsonl", [{"prompt": "def f", "answer": "x"}])
    write_jsonl(tmp_path / "valid.jsonl", [{"prompt": own, "answer": "x"}])
    validation = ("domains.code.validation={kind: file, path: valid.jsonl}", "training.validate_every=1")
    with refuses("valid.jsonl, row 1", "domains.code.system_prompt"):
        opened(*MODES, *validation)


def test_modes_that_the_template_does_not_take_are_refused_with_everything_else(opened, tmp_path):
    problems = problems_of(opened, "chat_template={thinking: true}", "domains.code.expert.path=./none")
    says(" ".join(problems), "chat_template.thinking", "it reads: keep, think", "none")
    for name in ("student", "math_expert", "code_expert"):
        write_model(tmp_path / name, template=WITHOUT_SYSTEM)
    with refuses("domains.code.system_prompt", "System role not supported"):
        opened(MODES[1])
    assert check_modes(opened().found) is None


def test_the_probe_asks_in_the_mode(opened, monkeypatch):
    run, asked = opened(*MODES, "domains.math.reward=exact"), {}

    def on_device(work, config, models, wanted, encoded, ends):
        asked.update(encoded)
        return []

    with pytest.raises(ValueError, match="zip"):  # nothing was answered
        teachers = {teacher.domain: teacher.folder for teacher in run.teachers()}
        probe_module.sample_optima(run.folder.config, run.found.routed, teachers, [1.0], on_device=on_device)
    read = reader(run)
    assert {name: set(map(read, own)) for name, own in asked.items()} == {
        "math": expected("math", MATH), "code": expected("code", CODE)
    }  # fmt: skip


def test_the_start_is_measured_in_the_mode(opened):
    run = opened(*MODES, "training.start={kind: model, path: ./math_expert}").written()
    asked = {}

    class Cluster:
        def on_device(self, work, config, start, encoded, ends):
            asked.update(encoded)
            return [0.0 for _ in encoded]

    measure_start(run.folder, Cluster())
    read = reader(run)
    assert {name: set(map(read, own)) <= expected(name, MATH + CODE) for name, own in asked.items()} == {
        "math": True, "code": True
    }  # fmt: skip


def test_the_teachers_of_sft_are_asked_in_the_mode(opened, monkeypatch, tmp_path):
    asked = []

    class FakeGenerator:
        chat_template: dict = {}  # noqa: RUF012

        def __init__(self, **settings):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def generate(self, model, problems, **how):
            asked.append((dict(self.chat_template), {len(problem.messages) for problem in problems}))
            return {problem.id: [Completion("x", 1, True)] for problem in problems}

    monkeypatch.setattr("eval.generation.generate.Generator", FakeGenerator)
    run = opened(*MODES).written()
    sft.write_answers(run.folder, run.teachers(), tmp_path / "answers.parquet")
    assert asked == [({"think": True}, {1}), ({}, {2})]
    read = reader(run)
    for row in pq.read_table(tmp_path / "answers.parquet").to_pylist():
        assert read(row["prompt_ids"]) in expected(row["teacher"], MATH + CODE)


def test_the_agreement_router_scores_each_domains_answers_in_its_mode(opened, monkeypatch):
    scored = {}

    def score(self, name, sequences):
        scored.setdefault(name, set()).update(sequence.token_ids for sequence in sequences)
        return original(self, name, sequences)

    from teachers.scoring.scorer import SharedScorer

    original = SharedScorer.score
    monkeypatch.setattr(SharedScorer, "score", score)
    prompts = [Prompt("a", ({"role": "user", "content": "1+1"},), None, None, "f", 1)]

    def signals(*overrides):
        scored.clear()
        run = opened("routing={kind: agreement, max_tokens: 2}", *overrides)
        (found,) = prompt_signals(run.folder.config, prompts, run.teachers())
        read = reader(run)
        return found, {name: {read(ids) for ids in own} for name, own in scored.items()}

    usual, texts = signals()
    assert {text[:4] for own in texts.values() for text in own} == {"1+1\n"}
    changed, texts = signals(*MODES)
    assert {text[:6] for text in texts["math"]} == {"T 1+1\n"}
    assert {text[:9] for text in texts["code"]} == {"[Py.]1+1\n"}
    assert {text[:2] for text in texts["reference"]} == {"T ", "[P"}
    assert changed.keys() == usual.keys()


def test_an_expert_of_the_registry_from_another_mode_is_noted(opened, tmp_path):
    thinks = "domains.math.chat_template={think: true}"
    built = opened(f"domains.math.expert{RL}", thinks)
    record = store_expert(Registry(tmp_path / "home"), orders(built)["math"].identity())

    def noted(*overrides):
        """Notes of a run that has this expert."""
        return replace(opened(*overrides).found, records={"math": record}).notes

    says(" ".join(noted()), record.id, "trained with chat_template {think: true}", "no mode of its own")
    assert not any("trained with" in note for note in noted(thinks))


def test_scores_of_experts_are_kept_with_their_mode(opened):
    config = opened(*MODES).folder.config
    assert settings(config, "math")["chat_template"] == {"think": True}
    assert settings(config, "code")["system_prompt"] == "Py."
    assert "system_prompt" not in settings(config, "math")


# --------------------------------------------------------------------------------------- identities


RL = "={kind: rl, steps: 1, prompts_per_step: 2, samples_per_prompt: 2}"


def orders(run: OpenedRun) -> dict[str, ExpertOrder]:
    experts = run.found.experts(run.folder.config).items()
    return {name: expert.order() for name, expert in experts if isinstance(expert, BuiltExpert)}


def test_an_experts_id_depends_on_its_own_mode_alone(opened, tmp_path):
    built = [f"domains.{name}.expert{RL}" for name in ("math", "code")]

    def ids(*overrides):
        run = opened(*built, *overrides)
        return {name: expert_id(order.identity()) for name, order in orders(run).items()}

    plain = ids()
    for own in ("domains.{}.chat_template={{think: true}}", "domains.{}.system_prompt=Py."):
        for name, other in (("math", "code"), ("code", "math")):
            changed = ids(own.format(name))
            assert changed[name] != plain[name] and changed[other] == plain[other]
    both = ids("chat_template={think: true}")
    assert both["math"] == ids("domains.math.chat_template={think: true}")["math"] != plain["math"]
    assert (
        ids("chat_template={think: true}", "domains.code.chat_template={think: false}")["math"]
        == both["math"]
    )


def test_an_expert_is_built_on_rows_of_its_mode(opened, tmp_path):
    run = opened(*MODES, f"domains.code.expert{RL}")
    job = expert_job(run.found.experts(run.folder.config)["code"].order(), tmp_path / "work")
    rows = pq.read_table(job.train_file).to_pylist()
    assert {row["prompt"][0]["content"] for row in rows} == {"Py."}
    assert job.chat_templates == {"math": {"think": True}}


def test_without_modes_identities_are_those_of_before(opened):
    """Neither an id nor a key has a part more than before there were any modes."""
    run = opened(f"domains.math.expert{RL}")
    order = run.found.experts(run.folder.config)["math"].order()
    assert order.identity().keys() == {
        "base_weights", "base_tokenizer", "base_chat_template", "recipe", "reward", "prompts",
        "chat_template_arguments", "max_prompt_tokens", "max_response_tokens",
    }  # fmt: skip
    assert order.identity()["chat_template_arguments"] == {}
    assert order.identity()["base_chat_template"] == fingerprint(str(run.found.student)).chat_template_sha256
    key = decisions_key(run.folder.config)
    assert decisions_key(opened(f"domains.math.expert{RL}", MODES[1]).folder.config) != key


def test_prompts_are_the_same_rows_in_any_mode(opened, tmp_path):
    """A prompt's id does not tell its mode, so lists of what was dropped stay comparable."""
    write_jsonl(tmp_path / "math.jsonl", sum_rows(6))
    plain = [item.prompt.id for item in opened().found.routed]
    assert [item.prompt.id for item in opened(*MODES).found.routed] == plain
