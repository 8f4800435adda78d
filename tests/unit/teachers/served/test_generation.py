"""Answers of a served model to problems."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from eval.generation.generate import sample_seed
from eval.records import Completion, Problem
from teachers.served.client import ServedError, ServedModel
from teachers.served.generation import ServedAnswers
from tests.helpers.fake_server import FakeServer
from tests.helpers.mode_template import student_with
from tests.helpers.paths import STUDENT

PROBLEMS = [Problem(f"p{i}", ({"role": "user", "content": f"Math: {i}+{i}"},), None) for i in range(3)]


@pytest.fixture
def server():
    with FakeServer(STUDENT) as server:
        yield server


def answers(server: FakeServer, **changes) -> tuple[dict, list[int]]:
    """What `generate` returns, and its calls of `on_progress`."""
    model = ServedAnswers(
        ServedModel("domains.math.expert", server.url, "teacher"), "digest", 4096, str(STUDENT)
    )
    done: list[int] = []
    how = {"mode": "sampled", "n": 2, "temperature": 0.7, "seed": 5, "max_tokens": 20, "max_model_len": 160}
    how |= {"chat_template": {}}
    return model.generate(PROBLEMS, **how | changes, on_progress=done.append), done


def test_every_problem_has_its_answers_in_order(server):
    found, done = answers(server)
    assert list(found) == ["p0", "p1", "p2"]
    assert all(own == [Completion("x", 1, False)] * 2 for own in found.values())
    assert done == [1, 2, 3, 4, 5, 6]


def test_the_prompt_is_the_students_and_the_seeds_are_those_of_every_other_model(server):
    answers(server)
    tokenizer = AutoTokenizer.from_pretrained(STUDENT)
    prompts = {
        problem.id: tokenizer.apply_chat_template(
            list(problem.messages), add_generation_prompt=True, return_dict=True
        )["input_ids"]
        for problem in PROBLEMS
    }
    wanted = sorted((prompts[p.id], sample_seed(5, p.id, i), 0.7) for p in PROBLEMS for i in range(2))
    assert sorted((body["prompt"], body["seed"], body["temperature"]) for body in server.bodies) == wanted


def test_the_arguments_of_the_chat_template_reach_the_prompt(tmp_path):
    student = student_with(tmp_path / "student")
    read = AutoTokenizer.from_pretrained(student)
    with FakeServer(STUDENT) as server:
        served = ServedModel("domains.math.expert", server.url, "teacher")
        model = ServedAnswers(served, "digest", 4096, str(student))
        how = {
            "mode": "greedy",
            "n": 1,
            "temperature": 1.0,
            "seed": 5,
            "max_tokens": 20,
            "max_model_len": 160,
        }
        for arguments, text in (({}, "Math: 0+0\n"), ({"think": True}, "T Math: 0+0\n")):
            model.generate(PROBLEMS[:1], **how, chat_template=arguments)
            assert read.decode(server.bodies[-1]["prompt"]) == text


def test_the_servers_own_sampling_settings_do_not_count(server):
    answers(server)
    own = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
    assert all(own.items() <= body.items() for body in server.bodies)


def test_greedy_answers_have_no_seed_and_no_temperature(server):
    answers(server, mode="greedy", n=1)
    assert len(server.bodies) == 3
    assert all(body["temperature"] == 0 and "seed" not in body for body in server.bodies)


def test_an_answer_ends_at_the_context(server):
    answers(server, max_model_len=24)
    assert all(len(body["prompt"]) + body["max_tokens"] == 24 for body in server.bodies)
    with pytest.raises(ServedError, match=r"problem 'p0' has .* prompt tokens, which leaves no room"):
        answers(server, max_model_len=4)


def test_an_answer_that_is_none_is_told(server):
    server.faults.append(lambda answer: {"choices": []})
    with pytest.raises(ServedError, match="the answer is no completion"):
        answers(server)
