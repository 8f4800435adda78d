"""The baseline `sft`: which answers it is trained on, in which tokens, by which settings of verl."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from common.errors import RunFailed
from configs.blocks.baselines import GrpoBaseline, SftBaseline
from configs.load import load_config
from configs.schema import Hardware
from eval.records import Completion
from merging.baselines import sft
from merging.state.baseline_record import is_made, write_record
from merging.state.teacher import Teacher
from tests.helpers.messages import refuses
from tests.helpers.opened_runs import open_run
from tests.helpers.paths import STUDENT
from tests.helpers.tiny_model import sum_rows, write_config, write_jsonl
from tests.helpers.verl_configs import leaves
from trainer.engine.attention import PACKED
from trainer.sft import SftJob, sft_config

pytest.importorskip("torch")


@pytest.fixture
def folder(tmp_path):
    """A run whose prompts are written: two steps of four prompts, two rollouts each, of two domains."""
    for name in ("math", "code"):
        rows = [{**row, "prompt": f"{name} {row['prompt']}"} for row in sum_rows(4)]
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    domain = {"expert": {"kind": "model", "path": str(STUDENT)}, "reward": "exact"}
    config = {
        "name": "demo", "student": str(STUDENT), "registry": "home", "hardware": {"device": "cpu"},
        "domains": {
            name: {**domain, "prompts": {"kind": "file", "path": f"{name}.jsonl"}}
            for name in ("math", "code")
        },
        "training": {"steps": 2, "prompts_per_step": 4, "samples_per_prompt": 2, "max_prompt_tokens": 24,
                     "max_response_tokens": 16, "seed": 7, "learning_rate": 3e-4},
        "baselines": ["sft"],
    }  # fmt: skip
    return open_run(load_config(write_config(tmp_path, config)), tmp_path / "run").written().folder


class FakeGenerator:
    """Answers with the model's name; the second answer to a prompt is cut off."""

    asked: list = []  # noqa: RUF012

    def __init__(self, **settings):
        self.settings = settings

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def generate(self, model, problems, **how):
        how.pop("on_progress")(len(problems))
        self.asked.append((model.name, len(problems), how))
        return {p.id: [Completion(f"{model.name[0]}1", 3, i == 0) for i in range(how["n"])] for p in problems}


def test_every_prompt_is_answered_by_its_own_teacher(folder, monkeypatch, tmp_path):
    monkeypatch.setattr(FakeGenerator, "asked", [])
    monkeypatch.setattr("eval.generation.generate.Generator", FakeGenerator)
    teachers = [Teacher(domain, f"/experts/{domain}", "weights", None) for domain in ("math", "code")]
    sft.write_answers(folder, teachers, tmp_path / "answers.parquet")
    how = {"mode": "sampled", "n": 2, "temperature": 1.0, "seed": 7, "max_tokens": 16}
    assert FakeGenerator.asked == [("math", 4, how), ("code", 4, how)]

    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(STUDENT)
    rows = pq.read_table(tmp_path / "answers.parquet").to_pylist()
    prompts = pq.read_table(folder.prompts_file).to_pylist()
    assert [row["teacher"] for row in rows] == [row["teacher"] for row in prompts for _ in range(2)]
    for place, row in enumerate(rows):
        given = tokenizer.apply_chat_template(
            prompts[place // 2]["prompt"], add_generation_prompt=True, tokenize=False
        )
        assert tokenizer.decode(row["prompt_ids"]) == given
        finished = place % 2 == 0
        assert tokenizer.decode(row["response_ids"], skip_special_tokens=True) == f"{row['teacher'][0]}1"
        assert (row["response_ids"][-1] == tokenizer.eos_token_id) == finished
        assert tokenizer.eos_token_id not in row["response_ids"][:-1]


def test_the_loss_is_on_the_answer_alone(tmp_path):
    import pyarrow as pa

    from trainer.within.token_rows import TokenRows

    row = {"prompt_ids": [5, 6, 7], "response_ids": [8, 1]}
    pq.write_table(pa.Table.from_pylist([row, row]), tmp_path / "rows.parquet")
    rows = TokenRows([tmp_path / "rows.parquet"])
    assert len(rows) == 2 and len(TokenRows([tmp_path / "rows.parquet"], max_samples=1)) == 1
    item = {name: value.tolist() for name, value in rows[0].items()}
    assert item == {
        "input_ids": [5, 6, 7, 8, 1], "position_ids": [0, 1, 2, 3, 4], "loss_mask": [0, 0, 0, 1, 1],
    }  # fmt: skip


def test_it_has_the_merges_steps_sequences_and_optimizer(folder):
    job = sft.sft_job(folder.config, SftBaseline(kind="sft"), Path("rows"), folder.path / "sft")
    assert (job.name, job.steps, job.rows_per_step, job.learning_rate, job.seed) == ("sft", 2, 8, 3e-4, 7)
    assert job.model_path == folder.config.student and job.checkpoints == folder.path / "sft" / "checkpoints"


def test_its_own_learning_rate_takes_the_place_of_the_merges_and_of_nothing_else(folder):
    own = SftBaseline(kind="sft", learning_rate=1e-5)
    jobs = [
        sft.sft_job(folder.config, block, Path("rows"), folder.path)
        for block in (SftBaseline(kind="sft"), own)
    ]
    assert (jobs[0].learning_rate, jobs[1].learning_rate) == (3e-4, 1e-5)
    assert dataclasses.replace(jobs[1], learning_rate=3e-4) == jobs[0]


def test_a_training_at_another_learning_rate_is_not_taken_for_the_declared_one(tmp_path):
    own, other = (SftBaseline(kind="sft", learning_rate=rate) for rate in (1e-5, 2e-5))
    merges, target = SftBaseline(kind="sft"), tmp_path / "sft"
    target.mkdir()
    assert is_made(merges, target) and not is_made(own, target)  # a folder without a record: no options
    write_record(own, target)
    assert [is_made(block, target) for block in (own, other, merges)] == [True, False, False]


def test_a_block_that_takes_the_merges_rate_is_recorded_without_one(tmp_path):
    """So runs of before baselines had a rate are found made."""
    write_record(GrpoBaseline(kind="grpo"), tmp_path)
    assert json.loads((tmp_path / "baseline.json").read_text()) == {"kind": "grpo", "samples_per_prompt": 8}
    assert is_made(GrpoBaseline(kind="grpo"), tmp_path)


def job(**changes) -> SftJob:
    plain = SftJob("sft", "/student", Path("/rows"), Path("/work"), 6, 8, 1e-4, 2, 3, Hardware(device="cpu"))
    return dataclasses.replace(plain, **changes)


@pytest.mark.parametrize(
    ("field", "value", "key"),
    [
        ("steps", 9, "trainer.total_training_steps"),
        ("save_every", 5, "trainer.save_freq"),
        ("rows_per_step", 16, "data.train_batch_size"),
        ("model_path", "/other", "model.path"),
        ("learning_rate", 2e-5, "optim.lr"),
        ("warmup_steps", 4, "optim.lr_warmup_steps"),
        ("schedule", "cosine", "optim.lr_scheduler_type"),
        ("weight_decay", 0.2, "optim.weight_decay"),
        ("gradient_clip", 0.5, "optim.clip_grad"),
        ("seed", 11, "engine.seed"),
    ],
)
def test_every_field_reaches_verl(field, value, key):
    from omegaconf import OmegaConf

    plain, changed = (sft_config(j, "name") for j in (job(), job(**{field: value})))
    assert OmegaConf.select(changed, key) == value != OmegaConf.select(plain, key)


def test_hardware_reaches_verl():
    one = Hardware(device="cpu", tokens_per_device=77)
    eight = Hardware(device="cuda", gpus=4, nodes=2, ray_address="x")
    cpu, cuda = (sft_config(job(hardware=hardware), "name") for hardware in (one, eight))
    assert cpu.data.max_token_len_per_gpu == 77
    assert (cuda.trainer.n_gpus_per_node, cuda.trainer.nnodes, cuda.trainer.device) == (4, 2, "cuda")
    assert cuda.engine.strategy == cpu.engine.strategy == "fsdp2"
    for either in (cpu, cuda):
        assert either.model.external_lib == "trainer.engine.registered"
        assert either.model.use_remove_padding and either.model.override_config.attn_implementation == PACKED
    assert (cpu.model.enable_gradient_checkpointing, cuda.model.enable_gradient_checkpointing) == (
        False,
        True,
    )


def test_no_key_is_unknown_to_verl():
    """A key that verl does not read would be an option that does nothing."""
    from hydra import compose, initialize_config_module

    with initialize_config_module("verl.trainer.config", version_base=None):
        known = leaves(compose(config_name="sft_trainer_engine"))
    free = {"model.override_config.attn_implementation", "engine.mixed_precision.param_dtype"}
    for hardware in (Hardware(device="cpu"), Hardware(device="cuda")):
        keys = leaves(sft_config(job(hardware=hardware), "name"))
        assert keys.keys() - known.keys() <= free


def test_answers_that_are_not_one_a_rollout_end_the_run(folder, monkeypatch, tmp_path):
    """Eight rows of two rollouts: eight answers of each teacher."""
    import pyarrow as pa

    answers = folder.path / "sft" / "answers.parquet"
    answers.parent.mkdir()
    write_record(SftBaseline(kind="sft"), answers.parent)
    pq.write_table(pa.table({"teacher": ["math"] * 9 + ["code"] * 7}), answers)
    monkeypatch.setattr(sft, "train", lambda *_: pytest.fail("trained"))
    with refuses("code 7, math 9", "code 8, math 8", error=RunFailed):
        sft.train_sft(folder, SftBaseline(kind="sft"), [], lambda: None, tmp_path / "model")
