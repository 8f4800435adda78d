"""Whose a key of verl's is: refused with the key of ours that sets it, or with its reason."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from configs.blocks.baselines import GrpoBaseline, SftBaseline
from configs.blocks.experts import RLExpert
from configs.load import load_config
from configs.polish import Polish
from configs.schema import Hardware, MergeConfig, Training
from merging.baselines.sft import sft_job
from merging.exopd.job import merge_job
from tests.helpers.paths import ROOT
from tests.helpers.verl_configs import difference
from trainer.job import Lora
from trainer.overrides import verl_config
from trainer.settings.check import Settings, problems
from trainer.settings.defaults import PPO, SFT, default_values, flat
from trainer.settings.known import known
from trainer.settings.owned import (
    CONFIG,
    FIXED,
    MERGE_FIXED,
    NEUTRAL,
    RECIPE,
    SFT_RECIPE,
    entry,
    weight_settings,
)
from trainer.sft import sft_config

ACTOR, ROLLOUT, MODEL = "actor_rollout_ref.actor", "actor_rollout_ref.rollout", "actor_rollout_ref.model"

OPEN = dict.fromkeys(
    [
        f"{ACTOR}.use_torch_compile",
        f"{ACTOR}.fsdp_config.use_torch_compile",
        f"{ACTOR}.fsdp_config.dtype",
        f"{ACTOR}.fsdp_config.model_dtype",
        f"{ACTOR}.fsdp_config.mixed_precision",
        "actor_rollout_ref.ref.fsdp_config",
        f"{MODEL}.enable_gradient_checkpointing",
        f"{MODEL}.override_config",
        f"{ROLLOUT}.agent.num_workers",
        f"{ROLLOUT}.checkpoint_engine",
        f"{ROLLOUT}.dtype",
        f"{ROLLOUT}.enable_sleep_mode",
        f"{ROLLOUT}.enforce_eager",
        f"{ROLLOUT}.engine_kwargs",
        f"{ROLLOUT}.free_cache_engine",
        f"{ROLLOUT}.log_prob_max_token_len_per_gpu",
        f"{ROLLOUT}.max_num_batched_tokens",
        "transfer_queue.backend",
        "engine.dtype",
        "engine.model_dtype",
        "engine.mixed_precision",
        "engine.use_torch_compile",
        "model.enable_gradient_checkpointing",
        "model.override_config",
    ],
    "a default of ours, which the user may change",
)
"""Keys that Protege sets and that are the user's all the same."""

MERGE = Settings("verl", "merge", {}, fields=Training.model_fields)
EXPERT = Settings("domains.math.expert.verl", "expert", {}, "domains.math.expert", RLExpert.model_fields)
GRPO = Settings("baselines.grpo.verl", "grpo", {}, "baselines.grpo", GrpoBaseline.model_fields)
POLISH = Settings("polish.verl", "polish", {}, "polish", Polish.model_fields)
SFT_ = Settings("baselines.sft.verl", "sft", {}, "baselines.sft", SftBaseline.model_fields)


def said(settings: Settings, key: str, value: object = None) -> list[str]:
    return list(problems(dataclasses.replace(settings, values={key: value})))


@pytest.mark.parametrize(
    ("settings", "key", "owner"),
    [
        (MERGE, f"{ACTOR}.optim.lr", "training.learning_rate"),
        (EXPERT, f"{ACTOR}.optim.lr", "domains.math.expert.learning_rate"),
        (GRPO, f"{ACTOR}.optim.lr", "baselines.grpo.learning_rate"),
        (SFT_, "optim.lr", "baselines.sft.learning_rate"),
        (GRPO, f"{ACTOR}.optim.weight_decay", "training.weight_decay"),
        (EXPERT, "data.max_prompt_length", "training.max_prompt_tokens"),
        (EXPERT, f"{ROLLOUT}.n", "domains.math.expert.samples_per_prompt"),
        (EXPERT, f"{MODEL}.lora_rank", "domains.math.expert.lora_rank"),
        (MERGE, f"{MODEL}.lora_rank", "training.lora_rank"),
        (POLISH, f"{MODEL}.lora_alpha", "training.lora_alpha"),
        (GRPO, f"{MODEL}.lora_rank", "training.lora_rank"),
        (SFT_, "model.lora_rank", "training.lora_rank"),
        (EXPERT, f"{MODEL}.path", "domains.math.expert.base or student"),
        (MERGE, f"{MODEL}.path", "student"),
        (MERGE, f"{ACTOR}.fsdp_config.param_offload", "hardware.offload"),
        (SFT_, "engine.param_offload", "hardware.offload"),
        (MERGE, f"{ROLLOUT}.quantization", "hardware.rollout_quantization"),
        (EXPERT, f"{ACTOR}.calculate_entropy", "metrics.entropy"),
        (MERGE, "reward.custom_reward_function.path", "domains.<name>.reward"),
    ],
)
def test_the_message_names_the_key_of_ours(settings, key, owner):
    assert said(settings, key) == [f"{settings.place}: {key}: set by {owner}; change that instead"]


def test_what_the_method_rests_on_is_the_merges_and_an_experts_own_affair():
    key = f"{ACTOR}.clip_ratio_high"
    assert said(MERGE, key, 0.28) == [
        f"verl: {key}: Protege sets it: it belongs to the merge's objective; an expert, the polish or the "
        "baseline grpo may set it (their own `verl`)"
    ]
    for settings in (EXPERT, GRPO):
        assert said(settings, key, 0.28) == []
    for key in (f"{ACTOR}.optim.weight_decay", f"{ACTOR}.loss_agg_mode", f"{ACTOR}.grad_clip"):
        assert said(MERGE, key) != [] and said(EXPERT, key) == []  # an expert's block has no such keys


@pytest.mark.parametrize("settings", [MERGE, EXPERT, GRPO])
def test_what_nothing_may_change_says_why(settings):
    reason = "the same command continues what was interrupted"
    assert said(settings, "trainer.resume_mode", "disable") == [
        f"{settings.place}: trainer.resume_mode: Protege sets it: {reason}"
    ]


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        (f"{ACTOR}.optim.betas", 0.9, "expected a list, got 0.9; verl's default is [0.9, 0.999]"),
        (f"{ROLLOUT}.enforce_eager", 1, "expected true or false, got 1; verl's default is False"),
        (f"{ROLLOUT}.agent.num_workers", "8", "expected a number, got '8'; verl's default is 8"),
        (f"{ROLLOUT}.agent.num_workers", True, "expected a number, got True; verl's default is 8"),
        (f"{ROLLOUT}.dtype", 16, "expected text, got 16; verl's default is 'bfloat16'"),
        (f"{ACTOR}.optim", 1, "is a section of verl's configuration; set the keys below it"),
        ("trainer.sav_freq", 1, "verl 0.9.1 knows no such key; did you mean trainer.save_freq?"),
        ("protege.scorer", 1, "verl 0.9.1 knows no such key"),
    ],
)
def test_an_unknown_key_and_a_wrong_type_are_refused(key, value, expected):
    assert said(MERGE, key, value) == [f"verl: {key}: {expected}"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (f"{ACTOR}.optim.betas", [0.9, 0.95]),
        (f"{ROLLOUT}.agent.num_workers", None),
        (f"{ROLLOUT}.engine_kwargs.vllm.kv_cache_dtype", "fp8"),
        (f"{ROLLOUT}.max_num_batched_tokens", 16384),
        (f"{ACTOR}.fsdp_config.reshard_after_forward", False),
        ("actor_rollout_ref.nccl_timeout", 1200),
    ],
)
def test_all_else_is_passed_on(key, value):
    assert said(MERGE, key, value) == []


def test_every_key_of_the_tables_is_one_of_verls():
    tables = {**RECIPE, **CONFIG, **FIXED, **MERGE_FIXED, **dict.fromkeys(NEUTRAL), **OPEN}
    unknown = [key for key in tables if not (known(PPO, key) or known(SFT, key))]
    assert set(unknown) == READ_AND_NAMED_NOWHERE
    assert [key for key in SFT_RECIPE if not known(SFT, key)] == []


READ_AND_NAMED_NOWHERE = {"data.sampler"}
"""Keys that verl reads and no file or class of it names."""


def test_every_name_of_ours_exists():
    fields = {*Training.model_fields, *RLExpert.model_fields}
    assert {*RECIPE.values(), *SFT_RECIPE.values()} <= fields
    for name in CONFIG.values():
        first, *rest = name.split(".")
        assert first in MergeConfig.model_fields, name
        assert first != "hardware" or rest[0] in Hardware.model_fields, name


def composed_keys() -> dict[str, set[str]]:
    """Keys that our composition changes, by verl's trainer, over the kinds of trainings."""
    quickstart = ROOT / "configs" / "runs" / "quickstart.yaml"
    found: dict[str, set[str]] = {PPO: set(), SFT: set()}
    for overrides in (
        [],
        ["objective.estimator={kind: topk, k: 4}"],
        ["objective.estimator=sampled", "scorer.kind=pool", "scorer.tokens_per_batch=16384"],
        ["objective.estimator=sampled", "scorer.kind=sharded"],
        ["hardware={device: cuda, offload: all, rollout_sequences: 9, rollout_quantization: fp8}"],
        ["hardware={device: cuda, gpus: 2, sequence_parallel: 2, checkpoints: weights}"],
        ["training.overlap=one_step", "hardware.rollout_gpus=1"],
        ["training.lora_rank=4"],
    ):
        config = load_config(quickstart, overrides).config
        teachers = {domain: f"/experts/{domain}" for domain in config.domains}
        job = merge_job(config, "merge", teachers, Path("/rows"), Path("/run"))
        sft = sft_job(config, SftBaseline(kind="sft"), Path("/rows"), Path("/run"))
        went_on = dataclasses.replace(job, lora=Lora(4, 9, "/run/distilled"))
        found[PPO] |= changed(PPO, verl_config(went_on, "metrics"))
        found[SFT] |= changed(SFT, sft_config(sft, "metrics"))
    return found


def changed(trainer: str, config) -> set[str]:
    from omegaconf import OmegaConf

    values = flat(OmegaConf.to_container(config, resolve=False))
    return {key for key in difference(default_values(trainer), values) if not key.startswith("protege.")}


def test_every_key_that_we_set_is_somebodys():
    """A key of ours that is in no table could be overridden without anyone having decided so."""
    keys = composed_keys()
    assert len(keys[PPO]) > 70 and len(keys[SFT]) > 20
    common = {**CONFIG, **FIXED, **OPEN}
    tables = {PPO: {**common, **RECIPE, **MERGE_FIXED}, SFT: {**common, **SFT_RECIPE}}
    nobodys = {key for trainer, table in tables.items() for key in keys[trainer] if entry(table, key) is None}
    assert nobodys == set()


def test_settings_that_compute_nothing_leave_the_weights_alone():
    settings = {
        f"{ACTOR}.optim.betas": [0.9, 0.95],
        "global_profiler.steps": [1],
        f"{ROLLOUT}.free_cache_engine": False,
        f"{ACTOR}.fsdp_config.reshard_after_forward": False,
    }
    assert weight_settings(settings) == {f"{ACTOR}.optim.betas": [0.9, 0.95]}
