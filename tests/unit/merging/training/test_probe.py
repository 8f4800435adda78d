"""The probe: what it reads, which prompts it takes, how it judges, and the command."""

from __future__ import annotations

import json

import pytest

from configs.load import load_config
from configs.schema import Hardware
from merging.exopd.lambda_schedule import models_read
from merging.exopd.objective import optimum
from merging.training import probe as module
from merging.training.probe import Answered, ProbeResult, probe, table_row
from teachers.scoring.mixture import Decoded
from tests.helpers.cli_runner import protege
from tests.helpers.messages import refuses, says
from tests.helpers.tiny_model import config_dict, write_config, write_jsonl

torch = pytest.importorskip("torch")


@pytest.fixture
def config(tmp_path):
    return config_dict(tmp_path)


class FakeDecoder:
    """Answers every prompt with its own sum at lambda 1, and with nothing that ends otherwise."""

    calls, joined, greedy_is_right = None, None, True

    def __init__(self, models, device, dtype, cache_bytes):
        FakeDecoder.models, FakeDecoder.cache_bytes = models, cache_bytes

    def decode(self, names, join, prompts, max_tokens, end_ids, seed):
        FakeDecoder.calls.append((list(names), len(prompts), max_tokens, seed))
        FakeDecoder.joined.append(join(*[torch.tensor([[0.7, 0.3]]).log()] * len(names)).exp()[0, 0].item())
        right = len(names) == 1 and names != ["reference"] and (seed is not None or self.greedy_is_right)
        return [Decoded(tuple(self.tokens_of(prompt)) if right else (40, 41), right) for prompt in prompts]

    @staticmethod
    def tokens_of(prompt):
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(FakeDecoder.models["reference"])
        text = tokenizer.decode(prompt).strip()
        return tokenizer.encode(str(sum(map(int, text.split("+")))) if "+" in text else "x")


@pytest.fixture
def run(tmp_path, monkeypatch):
    import teachers.scoring.mixture

    FakeDecoder.calls, FakeDecoder.joined = [], []
    monkeypatch.setattr(FakeDecoder, "greedy_is_right", True)
    monkeypatch.setattr(teachers.scoring.mixture, "MixtureDecoder", FakeDecoder)

    def run(config, scales, *, prompts=3, samples=2, overrides=()):
        loaded = load_config(write_config(tmp_path, config), overrides)
        return probe(loaded, tmp_path / "runs/demo", scales, prompts, samples)

    return run


def test_at_lambda_one_only_the_teacher_is_read_and_at_zero_only_the_reference():
    teacher, reference = torch.tensor([[0.7, 0.3]]).log(), torch.tensor([[0.4, 0.6]]).log()
    (alone,) = models_read(1.0, teacher, reference)
    assert alone is teacher and optimum(1.0)(alone) is teacher
    (alone,) = models_read(0.0, teacher, reference)
    assert alone is reference and optimum(0.0)(alone) is reference
    weights = torch.tensor([[0.49 / 0.4, 0.09 / 0.6]])
    both = models_read(2.0, teacher, reference)
    torch.testing.assert_close(optimum(2.0)(*both).exp(), weights / weights.sum())


def test_every_domain_at_every_lambda_is_judged_by_its_reward(run, config, tmp_path):
    write_jsonl(
        tmp_path / "math.valid.jsonl", [{"prompt": f"{n}+{n}", "answer": str(2 * n)} for n in range(10, 15)]
    )
    config["domains"]["math"]["validation"] = {"kind": "file", "path": "math.valid.jsonl"}
    results = run(config, [1.0, 1.5], overrides=["domains.math.reward=exact", "domains.code.reward=exact"])
    assert [(r.domain, r.reward_scale) for r in results] == [
        ("math", 1.0), ("math", 1.5), ("code", 1.0), ("code", 1.5)
    ]  # fmt: skip
    one, extrapolated = results[:2]
    assert (one.prompts, one.sampled.answers, one.greedy.answers) == (3, 6, 3)
    for own, wrong in ((one.sampled, extrapolated.sampled), (one.greedy, extrapolated.greedy)):
        assert (own.accuracy, own.finish_rate, own.length) == (1.0, 1.0, 3.0)  # two digits and the end token
        assert (wrong.accuracy, wrong.finish_rate, wrong.length) == (0.0, 0.0, 2.0)
        assert 0 <= own.interval[0] < own.interval[1] <= 1
    assert [call[0] for call in FakeDecoder.calls[:4]] == [["math"]] * 2 + [["math", "reference"]] * 2
    assert [(call[1], call[3]) for call in FakeDecoder.calls] == [(6, 42), (3, None)] * 4
    assert set(FakeDecoder.models) == {"reference", "math", "code"}


def test_the_probe_decodes_with_the_models_that_lambda_reads(run, config):
    run(config, [0.0, 1.0, 1.5])
    of_math = [call[0] for call in FakeDecoder.calls[:6:2]]
    assert of_math == [["reference"], ["math"], ["math", "reference"]]


def test_what_is_sampled_is_sampled_as_the_evaluation_samples(run, config):
    run(config, [1.0], overrides=["evaluation.temperature=0.5", "evaluation.seed=7"])
    assert [call[3] for call in FakeDecoder.calls] == [7, None] * 2
    # 0.7^2 / (0.7^2 + 0.3^2); the likeliest token is the same at every temperature
    assert FakeDecoder.joined == pytest.approx([0.49 / 0.58, 0.7] * 2)
    FakeDecoder.joined.clear()
    run(config, [1.0])
    assert FakeDecoder.joined == pytest.approx([0.7] * 4)


def test_each_decoding_is_judged_by_its_own_answers(run, config, monkeypatch):
    monkeypatch.setattr(FakeDecoder, "greedy_is_right", False)
    (math, _) = run(config, [1.0], overrides=["domains.math.reward=exact", "domains.code.reward=exact"])
    assert (math.sampled.accuracy, math.greedy.accuracy, math.accuracy) == (1.0, 0.0, 0.5)
    assert set(math.scores.values()) == {(0.5,)}


def test_the_caches_are_bounded_as_configured(run, config):
    run(config, [1.0])
    assert FakeDecoder.cache_bytes == 2**30
    run(config, [1.0], overrides=["hardware.probe_cache_gib=2.5"])
    assert FakeDecoder.cache_bytes == 2.5 * 2**30
    assert Hardware().probe_cache_bytes == 16 * 2**30


def test_without_validation_prompts_it_takes_training_prompts(run, config):
    results = run(config, [1.0], prompts=1000)
    assert [result.prompts for result in results] == [6, 6]  # all there are


def test_prompts_without_answers_are_refused(run, config, tmp_path):
    write_jsonl(tmp_path / "bare.jsonl", [{"prompt": "1+1", "answer": None}])
    config["domains"]["math"]["validation"] = {"kind": "file", "path": "bare.jsonl"}
    with refuses("domains.math", "no prompt", "answer", "domains.math.validation"):
        run(config, [1.0])


def test_an_expert_that_is_not_built_is_refused(run, config, tmp_path):
    config["domains"]["math"]["expert"] = {"kind": "rl", "steps": 2}
    config["registry"] = str(tmp_path / "registry")
    with refuses("domains.math.expert", "not built", "`protege experts build CONFIG`"):
        run(config, [1.0])


def test_a_row_of_the_table():
    sampled = Answered(0.75, (0.7, 0.8), 400, 26.04, 0.99)
    greedy = Answered(0.85, (0.77, 0.9), 100, 20.0, 1.0)
    result = ProbeResult("math", 1.25, 100, 0.7, sampled, greedy)
    assert table_row(result) == (
        "math         lambda 1.25  mean  80.0% (n = 100 prompts) of sampled at 0.7 75.0% (95% 70.0% to "
        "80.0%, n = 100 prompts, 400 answers, 26.0 tokens, 99% finished) and greedy 85.0% (95% 77.0% to "
        "90.0%, n = 100 prompts, 100 answers, 20.0 tokens, 100% finished)"
    )
    kept = json.loads(json.dumps(result.to_json()))
    assert kept["interval"] == [0.7, 0.8] and kept["greedy"]["interval"] == [0.77, 0.9]
    assert "scores" not in kept and "scores" not in kept["greedy"]


@pytest.mark.parametrize("text", ["", "one", "1,-1", "1,,2", "inf"])
def test_the_command_refuses_what_is_no_list_of_numbers(config, tmp_path, text):
    result = protege("probe", write_config(tmp_path, config), "--reward-scale", text)
    assert result.code == 2
    says(result.err, "--reward-scale", "numbers of at least 0")


def test_the_command_takes_a_list_of_numbers(config, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(module, "probe", lambda loaded, run_dir, scales, *_: asked.append(scales) or [])
    protege("probe", write_config(tmp_path, config), "--reward-scale", "0, 1.25")
    assert asked == [[0.0, 1.25]]
