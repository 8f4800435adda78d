"""What verl's configuration knows: its files, and the fields of its classes that no file names."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.helpers.paths import ROOT
from trainer.settings.defaults import PPO, SFT, default_config, default_values
from trainer.settings.known import Known, known, suggestions

ROLLOUT, ACTOR = "actor_rollout_ref.rollout", "actor_rollout_ref.actor"


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (f"{ROLLOUT}.max_num_seqs", Known(default=256)),
        (f"{ACTOR}.optim.betas", Known(default=[0.9, 0.999])),
        (f"{ACTOR}.optim", Known(is_section=True)),
        # fields of verl's classes that stand in no YAML file
        (f"{ROLLOUT}.enable_sleep_mode", Known()),
        (f"{ROLLOUT}.server.timeout", Known()),
        (f"{ROLLOUT}.disaggregation", Known(is_section=True)),
        (f"{ACTOR}.fsdp_config.full_determinism", Known(default=False)),
        # inherited by FSDPActorConfig from ActorConfig
        (f"{ACTOR}.ppo_infer_max_token_len_per_gpu", Known()),
        # what verl leaves to its users
        (f"{ROLLOUT}.engine_kwargs.vllm.kv_cache_dtype", Known()),
        (f"{ACTOR}.optim.override_optimizer_config.eps", Known()),
        ("actor_rollout_ref.model.override_config.rope_scaling.factor", Known()),
        # what there is not
        (f"{ROLLOUT}.max_num_seq", None),
        (f"{ROLLOUT}.server.timeouts", None),
        (f"{ROLLOUT}.max_num_seqs.more", None),
        (f"{ACTOR}._target_", None),
        (f"{ACTOR}.megatron.tensor_model_parallel_size", None),
        ("rollout", None),
    ],
)
def test_a_key_is_known_or_not(key, expected):
    assert known(PPO, key) == expected


def test_the_sft_trainer_has_keys_of_its_own():
    assert known(SFT, "engine.param_offload") == Known(default=False)
    assert known(SFT, f"{ACTOR}.optim.lr") is None and known(PPO, "engine.param_offload") is None


def test_a_slip_and_a_shortened_key_are_recognised():
    assert suggestions(PPO, f"{ROLLOUT}.max_num_seq") == [f"{ROLLOUT}.max_num_seqs"]
    assert suggestions(PPO, "rollout.max_num_seqs")[0] == f"{ROLLOUT}.max_num_seqs"
    assert suggestions(SFT, f"{ACTOR}.optim.betas") == ["optim.betas"]
    assert suggestions(PPO, "nothing.like.it") == []


@pytest.mark.parametrize("trainer", [PPO, SFT])
def test_every_key_of_the_defaults_is_known(trainer):
    keys = [key for key in default_values(trainer) if not key.endswith("_target_")]
    assert [key for key in keys if known(trainer, key) is None] == []


def test_a_changed_copy_leaves_the_defaults_alone():
    config = default_config(PPO)
    config.trainer.save_freq = 12345
    assert default_values(PPO)["trainer.save_freq"] == default_config(PPO).trainer.save_freq == -1


def test_the_defaults_are_verls_own():
    """Composed as verl does it, by its package."""
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    for trainer in (PPO, SFT):
        with initialize_config_module("verl.trainer.config", version_base=None):
            own = compose(config_name=trainer)
        assert OmegaConf.to_container(own, resolve=False) == OmegaConf.to_container(
            default_config(trainer), resolve=False
        )


def test_neither_torch_nor_verl_is_imported():
    code = (
        "import sys\nfrom trainer.settings.known import known, suggestions\n"
        f"assert known('{PPO}', '{ROLLOUT}.enable_sleep_mode') and not known('{PPO}', 'a.b')\n"
        f"suggestions('{PPO}', 'max_num_seqs')\n"
        "print(sorted({'torch', 'verl', 'vllm', 'ray', 'transformers'} & sys.modules.keys()))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
