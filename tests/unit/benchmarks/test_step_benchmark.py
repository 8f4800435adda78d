"""The pieces of the benchmark of a step: models, plain loop, what is read of a training. Nothing is timed."""

from __future__ import annotations

import json
import math

import pytest

from benchmarks.step import ours
from benchmarks.step.__main__ import print_size
from benchmarks.step.models import STUDENT, make_models
from benchmarks.step.plain_loop import Loop, Settings
from configs.load import load_config
from merging.exopd.objective import optimum_logp, reverse_kl

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return make_models(tmp_path_factory.mktemp("models"), "demo")


@pytest.fixture(scope="module")
def settings(models):
    rows = [("math", "Math: 12+70"), ("code", "Code: sum of xs"), ("math", "Math: 3*4+1")]
    return Settings(
        models["student"], {name: models[name] for name in ("math", "code")}, [rows], 12, 1e-3, 1.25, 2
    )


def weights(path):
    from safetensors.torch import load_file

    return load_file(f"{path}/model.safetensors")


def test_the_demo_size_is_the_demo_student_and_its_teachers_differ_in_every_weight(models):
    shipped, student = weights(STUDENT), weights(models["student"])
    math_teacher, code_teacher = weights(models["math"]), weights(models["code"])
    for name, weight in shipped.items():
        assert torch.equal(student[name], weight)
        assert not torch.equal(math_teacher[name], weight)
        assert not torch.equal(math_teacher[name], code_teacher[name])


def test_other_sizes_keep_tokenizer_and_vocabulary(tmp_path):
    from transformers import AutoConfig, AutoTokenizer

    made = make_models(tmp_path, "larger")
    assert sum(weight.numel() for weight in weights(made["student"]).values()) == 7_501_760
    assert AutoConfig.from_pretrained(made["code"]).vocab_size == 99
    assert (
        AutoTokenizer.from_pretrained(made["math"]).chat_template
        == AutoTokenizer.from_pretrained(STUDENT).chat_template
    )


def test_the_plain_loops_loss_is_the_merges_objective(settings):
    """By a slow way: one sequence at a time, without padding, with this project's own functions."""
    loop = Loop(settings)
    torch.manual_seed(0)
    rows = settings.steps[0]
    ids_BT, width, responses_BR = loop.rollout([prompt for _, prompt in rows])
    targets = loop.targets([domain for domain, _ in rows], ids_BT, width)
    expected = 0.0
    for place, (domain, _) in enumerate(rows):
        ids_T = ids_BT[place][ids_BT[place] != 0]
        prompt_tokens = int((ids_BT[place, :width] != 0).sum())
        answer = int(responses_BR[place].sum())
        ids_T = ids_T[: prompt_tokens + answer]
        with torch.no_grad():
            student_TV, teacher_TV, reference_TV = (
                model(ids_T[None]).logits[0, prompt_tokens - 1 : -1].log_softmax(-1)
                for model in (loop.student, loop.teachers[domain], loop.reference)
            )
        q_TV = optimum_logp(teacher_TV, reference_TV, 1.25)
        assert torch.allclose(targets[place][:answer], q_TV, atol=1e-4)
        expected += reverse_kl(student_TV, q_TV).mean().item() / len(rows)
    before = loop.student.lm_head.weight.detach().clone()
    assert loop.update(ids_BT, width, responses_BR, targets) == pytest.approx(expected, rel=1e-3)
    assert not torch.equal(loop.student.lm_head.weight, before)


def test_a_step_tells_its_parts_tokens_and_loss(settings):
    found = Loop(settings).step(settings.steps[0])
    assert found.keys() == {"rollout", "scoring", "update", "cpu", "tokens", "loss"}
    assert 3 <= found["tokens"] <= 3 * 12 and math.isfinite(found["loss"]) and found["loss"] > 0


def test_the_config_is_the_quickstart_with_given_experts(tmp_path, models):
    path = ours.write_config(tmp_path, models, 7, {"training": {"prompts_per_step": 8}})
    config = load_config(path).config
    assert config.training.steps == 7 and config.training.prompts_per_step == 8
    assert str(config.student) == models["student"]
    assert {name: str(domain.expert.path) for name, domain in config.domains.items()} == {
        name: models[name] for name in ("math", "code")
    }


def test_what_is_counted_of_a_training_is_between_two_ends_of_steps():
    rows = [
        {"timing_s/gen": 2.0, "timing_s/update_actor": 1.0, "response_length/mean": 20.0} for _ in range(6)
    ]
    marks = [ours.Mark(10.0 * step, {"trainer": 3.0 * step, "idle": 0.0}) for step in range(1, 7)]
    steps, seconds, cpu = ours.counted(rows, marks, warm_up=2)
    assert (len(steps), seconds, cpu) == (3, 10.0, {"trainer": 3.0})  # 3, 4, 5: the sixth stores a checkpoint
    assert steps[0]["rest"] == pytest.approx(7.0) and steps[0]["update"] == 1.0


def test_what_is_printed(capsys):
    def turn(seconds):
        parts = dict.fromkeys([*ours.PARTS, "rest"], 0.5)
        trained = {
            "seconds": seconds,
            "steps": [parts] * 3,
            "cpu": {"trainer": 1.0},
            "seconds_to_first_step": 9.0,
        }
        plain = {"rollout": 0.25, "scoring": 0.25, "update": 0.5, "cpu": 1.0}
        return {"ours": trained, "plain": {1: [plain] * 3}}

    print_size("demo", [turn(2.0), turn(3.0), turn(1.5)], [1])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["ratio", "2.00", "(1.50", "to", "3.00)"] in lines
    assert ["ratio", "of", "processor", "seconds", "1.00", "(1.00", "to", "1.00)"] in lines


def test_settings_of_the_plain_loop_survive_a_file(settings):
    from dataclasses import asdict

    read = Settings(**json.loads(json.dumps(asdict(settings))))
    assert read.student == settings.student and [tuple(row) for row in read.steps[0]] == settings.steps[0]
