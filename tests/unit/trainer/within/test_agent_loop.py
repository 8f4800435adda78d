"""The worker that runs rollouts stores what verl stores, in few messages. A stand-in is the engine."""

from __future__ import annotations

import asyncio
import copy
import json
from pathlib import Path

import pytest

pytest.importorskip("verl.trainer.ppo.v1.agent_loop_tq")

import torch
from omegaconf import OmegaConf, open_dict
from transformers import AutoTokenizer
from verl.workers.rollout.llm_server import FullyAsyncLLMServerClient, LLMServerClient

from configs.schema import Hardware
from tests.helpers.mode_template import student_with
from tests.helpers.paths import STUDENT
from tests.helpers.rollouts import PROMPTS, Engine, roll_out
from trainer.job import TrainingJob
from trainer.overrides import verl_config
from trainer.within.agent_loop import USED_UP, LoudAgentLoopWorker, PlainAgentLoopWorker

SAMPLES = 2


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("job")
    job = TrainingJob(
        name="math", model_path=str(STUDENT), train_file=folder / "rows.parquet", folder=folder, steps=1,
        prompts_per_step=3, samples_per_prompt=SAMPLES, learning_rate=1e-4, max_prompt_tokens=72,
        max_response_tokens=48, save_every=1, seed=0, hardware=Hardware(device="cpu"),
        reward_function=("teachers.rewards", "compute_score"),
    )  # fmt: skip
    found = verl_config(job, "metrics")
    with open_dict(found):
        OmegaConf.update(found, "protege.failures_file", str(folder / "failures.jsonl"), force_add=True)
    return found


@pytest.fixture
def messages(monkeypatch):
    """What is put into verl's queue, in order: (keys, fields or None, tags)."""
    sent = []

    async def put(keys, partition_id, fields=None, tags=None):
        assert partition_id == "train"
        sent.append((list(keys), fields, tags))

    async def put_one(key, partition_id, fields=None, tag=None):
        await put([key], partition_id, fields, [tag])

    monkeypatch.setattr("transfer_queue.async_kv_batch_put", put)
    monkeypatch.setattr("transfer_queue.async_kv_put", put_one)
    monkeypatch.setattr("transfer_queue.init", lambda: None)
    return sent


def stored(messages):
    """Fields and tag of each rollout by its key."""
    found = {}
    for keys, fields, tags in messages:
        for place, key in enumerate(keys if fields is not None else []):
            row = {name: fields[name][place] for name in fields.keys()}  # noqa: SIM118
            found[key] = ({name: getattr(value, "data", value) for name, value in row.items()}, tags[place])
    return found


class WithoutScore(PlainAgentLoopWorker):
    """verl's worker, which would ask another process for the reward."""

    async def _compute_score(self, outputs, kwargs):
        outputs[-1].reward_score, outputs[-1].extra_fields["reward_extra_info"] = (
            0.0,
            {"score": 0.0, "acc": 0.0},
        )


def test_what_is_stored_is_what_verl_stores_but_for_columns_that_nobody_reads(config, messages):
    roll_out(LoudAgentLoopWorker, config)
    ours = stored(messages)
    messages.clear()
    roll_out(WithoutScore, config)
    verls = stored(messages)
    assert ours.keys() == verls.keys() == {f"prompt{p}_{s}_0" for p in range(3) for s in range(SAMPLES)}
    lengths = set()
    for key, (fields, tag) in verls.items():
        own, own_tag = ours[key]
        assert own.keys() == fields.keys() - USED_UP
        assert own_tag == tag
        lengths.add(tag["response_len"])
        for name in own.keys() - {"metrics"}:  # times
            same = torch.equal if isinstance(own[name], torch.Tensor) else lambda a, b: a == b
            assert same(own[name], fields[name]), (key, name)
    assert lengths == {5, 7, 8}


def test_a_prompts_end_is_told_after_its_rollouts_and_all_of_a_step_in_few_messages(config, messages):
    roll_out(LoudAgentLoopWorker, config)
    (rollouts, _, _), (prompts, nothing, tags) = messages
    assert len(rollouts) == 3 * SAMPLES and nothing is None
    assert sorted(prompts) == ["prompt0", "prompt1", "prompt2"] and tags == [{"status": "finished"}] * 3


def test_a_failed_rollout_is_told_and_recorded_and_takes_no_other_with_it(config, messages):
    roll_out(LoudAgentLoopWorker, config, fails=True)
    told = {
        key: tag["status"]
        for keys, fields, tags in messages
        if fields is None
        for key, tag in zip(keys, tags, strict=True)
    }
    assert told == {"prompt0": "finished", "prompt1": "failure", "prompt2": "finished"}
    assert len(stored(messages)) == 5
    failure = json.loads(Path(config.protege.failures_file).read_text().splitlines()[-1])
    assert failure["error"].endswith("the engine is gone")


@pytest.mark.usefixtures("messages")
def test_answers_are_asked_for_once_and_whole_where_nothing_interrupts_them(config):
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    def asked(client_class):
        async def made():
            return LoudAgentLoopWorker(config, llm_client=client_class(config)).asked

        return asyncio.run(made())

    accepted = SamplingParams(**asked(LLMServerClient))
    assert accepted.output_kind == RequestOutputKind.FINAL_ONLY and not accepted.detokenize
    assert asked(FullyAsyncLLMServerClient) == {}


class Teacher(LoudAgentLoopWorker):
    """Keeps what a scorer is given: the ids of prompt and answer."""

    scored: list[list[int]] = []  # noqa: RUF012

    async def _compute_teacher_logprobs(self, output, prompt_ids, response_ids, validate, sample_kwargs=None):
        Teacher.scored.append([*prompt_ids, *response_ids])


def test_each_row_is_asked_by_the_arguments_of_its_domain(config, messages, monkeypatch, tmp_path):
    """The engine, what is trained on and the scorer have the same ids."""
    monkeypatch.setattr(Teacher, "scored", [])
    changed = copy.deepcopy(config)
    with open_dict(changed):
        changed.actor_rollout_ref.model.path = str(student_with(tmp_path / "student"))
        changed.protege.chat_templates = {"math": {"think": True}}
        changed.data.apply_chat_template_kwargs = {}
    read = AutoTokenizer.from_pretrained(STUDENT).decode

    def asked() -> set[str]:
        """Texts of the prompts that a rollout asks, trains on and has scored."""
        messages.clear()
        Teacher.scored.clear()
        engine = roll_out(Teacher, changed)
        prompts = {tuple(ids) for ids in engine.prompts}
        assert prompts == {tuple(row["prompts"].tolist()) for row, _ in stored(messages).values()}
        whole = {tuple(row["input_ids"].tolist()) for row, _ in stored(messages).values()}
        assert whole == set(map(tuple, Teacher.scored))
        return {read(list(ids)) for ids in prompts}

    assert asked() == {f"T {text}\n" for text in PROMPTS}
    with open_dict(changed):
        changed.protege.chat_templates = {"code": {"think": True}}
    assert asked() == {f"{text}\n" for text in PROMPTS}


def test_a_validation_is_asked_by_the_arguments_of_its_domain(config, messages, tmp_path):
    changed = copy.deepcopy(config)
    with open_dict(changed):
        changed.actor_rollout_ref.model.path = str(student_with(tmp_path / "student"))
        changed.protege.chat_templates = {"math": {"think": True}}
    rows = [
        {
            "prompt": [{"role": "user", "content": "1+1"}],
            "data_source": domain,
            "reward_model": {"style": "rule", "ground_truth": json.dumps("82")},
            "extra_info": {"index": 0, "reward": "exact"},
        }
        for domain in ("math", "code")
    ]

    async def answers(engine):
        worker = LoudAgentLoopWorker(changed, llm_client=engine)
        await worker.answer([{"row": row, "sampling": {"temperature": 0.0}} for row in rows])

    engine = Engine(changed)
    asyncio.run(answers(engine))
    read = AutoTokenizer.from_pretrained(STUDENT).decode
    assert [read(ids) for ids in engine.prompts] == ["T 1+1\n", "1+1\n"] and messages == []


def test_a_validation_is_judged_and_nothing_of_it_is_stored(config, messages):
    def row(text: str) -> dict:
        return {
            "prompt": [{"role": "user", "content": text}],
            "data_source": "math",
            "reward_model": {"style": "rule", "ground_truth": json.dumps("82")},
            "extra_info": {"index": 0, "reward": "exact"},
        }

    async def answers(engine):
        worker = LoudAgentLoopWorker(config, llm_client=engine)
        sampling = ({"temperature": 0.0}, {"temperature": 1.0, "seed": 7})
        return await worker.answer([{"row": row("Math: 1+1"), "sampling": one} for one in sampling])

    engine = Engine(config)
    found = asyncio.run(answers(engine))
    assert [(one.score, one.finished) for one in found] == [(0.0, True)] * 2 and messages == []
    assert [one["temperature"] for one in engine.asked] == [0.0, 1.0]
    assert [one.get("seed") for one in engine.asked] == [None, 7]
    assert all((one["top_p"], one["top_k"]) == (1.0, -1) for one in engine.asked)
    assert found[0].tokens == found[1].tokens > 1
