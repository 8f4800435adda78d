"""verl's own training workers on one or more gloo ranks, without Ray: what each of them makes of a batch.

`train_on` starts the ranks as processes, each of which runs this module. A trial names a training; a rank
composes verl's configuration as the command would, builds verl's worker of it, and trains on its share of
rows that every rank draws alike.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.helpers.gloo_ranks import run_ranks
from tests.helpers.model_copies import STUDENT
from trainer.job import Lora

ROWS = 8
LORA = Lora(4, 8)
VOCABULARY = 99
TEACHERS = {"math": "/experts/math", "code": "/experts/code"}
SCALES = {"math": 1.25, "code": 0.5}
TOP_K = 16
SECONDS = 600
"""Longest time for all ranks together; an idle machine takes a tenth of it."""


@dataclass(frozen=True)
class Trial:
    """One training on the drawn rows, or the continuation of one."""

    kind: str
    """`sampled`, `full` or `topk` (a merge by that estimator), `grpo`, or `sft`."""
    steps: tuple[int, ...]
    """Numbers of its steps; after each one a checkpoint is saved."""
    checkpoints: str
    """Folder of its checkpoints; the one before the first step, if there is one, is loaded."""
    shares: tuple[tuple[int, ...], ...]
    """Rows of each rank."""
    tokens_per_device: int = 400
    """Few enough for several micro-batches a rank."""
    shards: int = -1
    """Ranks that share one copy of the weights; -1 for all."""
    lora: bool = False
    """Whether an adapter is trained, `LORA`."""
    begun: str | None = None
    """The adapter at which it begins; None for a new one."""


def train_on(ranks: int, trials: Sequence[Trial], folder: Path) -> list[list[dict[str, float]]]:
    """The metrics of every trial's steps, as verl's trainer would log them. Fails with a rank's output."""
    folder.mkdir(parents=True, exist_ok=True)
    order, found = folder / "order.json", folder / "found.json"
    order.write_text(json.dumps([asdict(trial) for trial in trials]))
    run_ranks(ranks, "tests.helpers.engine_ranks", [str(order), str(found)], folder, SECONDS)
    return json.loads(found.read_text())


def main() -> None:
    """One rank: all trials, one after another."""
    orders, target = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    found = [list(_metrics(Trial(**order))) for order in orders]
    if os.environ["RANK"] == "0":
        target.write_text(json.dumps(found))


def _metrics(trial: Trial) -> Iterator[dict[str, float]]:
    import torch
    from verl.utils.metric import reduce_metrics

    torch.manual_seed(0)  # verl draws a new adapter without a seed
    worker = _SftWorker(trial) if trial.kind == "sft" else _ActorWorker(trial)
    folder = Path(trial.checkpoints)
    before = folder / f"global_step_{trial.steps[0] - 1}" / worker.place
    if before.exists():
        worker.load(str(before))
    own = trial.shares[int(os.environ["RANK"])]
    for step in trial.steps:
        raw = reduce_metrics(worker.train(_batch(own, step), step))
        yield {key: float(value) for key, value in raw.items()}
        worker.save(str(folder / f"global_step_{step}" / worker.place), step)


class _ActorWorker:
    """verl's worker of `main_ppo`, without rollout."""

    place = "actor"

    def __init__(self, trial: Trial):
        from verl.workers.engine_workers import ActorRolloutRefWorker

        config = _config(trial)
        __import__(config.actor_rollout_ref.model.external_lib)
        config.actor_rollout_ref.actor.fsdp_config.fsdp_size = trial.shards
        distillation = config.distillation if trial.kind in ESTIMATORS else None
        self.worker = ActorRolloutRefWorker(
            config.actor_rollout_ref, role="actor", distillation_config=distillation
        )
        self.worker.init_model()
        self.kind, self.save, self.load = trial.kind, self._save, self.worker.load_checkpoint

    def _save(self, folder: str, step: int) -> None:
        self.worker.save_checkpoint(folder, None, step, 2)

    def train(self, batch: Any, step: int) -> dict[str, Any]:
        from verl.utils import tensordict_utils as tu

        # as `PPOTrainer._update_actor` has it
        tu.assign_non_tensor(
            batch, calculate_entropy=self.kind != "grpo", distillation_use_topk=False,
            distillation_only=False, global_batch_size=ROWS, mini_batch_size=ROWS, epochs=1, seed=0,
            dataloader_kwargs={"shuffle": False}, temperature=1.0,
        )  # fmt: skip
        if self.kind in ("full", "topk"):
            _attach_distribution(batch, self.kind)
        return tu.get(self.worker.update_actor(batch), "metrics")


class _SftWorker:
    """The worker of verl's SFT trainer."""

    place = ""

    def __init__(self, trial: Trial):
        from functools import partial

        from verl.utils.config import omega_conf_to_dataclass
        from verl.workers.engine_workers import TrainingWorker, TrainingWorkerConfig
        from verl.workers.utils.losses import sft_loss

        config = _config(trial)
        __import__(config.model.external_lib)
        parts = ("model", "engine", "optim", "checkpoint", "profiler")
        model, engine, optim, checkpoint, profiler = (omega_conf_to_dataclass(config[p]) for p in parts)
        optim.total_training_steps = 4
        self.worker = TrainingWorker(
            TrainingWorkerConfig(
                model_type="language_model", model_config=model, engine_config=engine,
                optimizer_config=optim, checkpoint_config=checkpoint, profiler_config=profiler,
            )
        )  # fmt: skip
        self.worker.set_loss_fn(partial(sft_loss, config=None))
        self.worker.reset()
        self.load, self.config = self.worker.load_checkpoint, config

    def save(self, folder: str, step: int) -> None:
        self.worker.save_checkpoint(folder, None, step, 2)

    def train(self, batch: Any, step: int) -> dict[str, Any]:
        from tensordict import NonTensorData
        from verl.utils import tensordict_utils as tu

        rows = batch.select("input_ids", "position_ids")
        rows["loss_mask"] = _jagged(
            [0] * len(p) + [1] * len(r)
            for p, r in zip(batch["prompts"].unbind(), batch["responses"].unbind(), strict=True)
        )
        # as `SFTTrainer.fit` has it
        tu.assign_non_tensor(
            rows, use_remove_padding=self.config.model.use_remove_padding, use_dynamic_bsz=True,
            max_token_len_per_gpu=self.config.data.max_token_len_per_gpu, micro_batch_size_per_gpu=None,
            temperature=1.0, global_batch_size=ROWS, pad_mode=self.config.data.pad_mode, pad_token_id=0,
            update_lr_scheduler=True, global_token_num=NonTensorData([1] * len(rows)),
        )  # fmt: skip
        return tu.get(self.worker.train_batch(rows), "metrics")


ESTIMATORS = {
    "sampled": {"kind": "sampled"},
    "full": {"kind": "full"},
    "topk": {"kind": "topk", "k": TOP_K},
}


def _config(trial: Trial) -> Any:
    """verl's configuration of the trial, as the command composes it."""
    os.environ.setdefault("VERL_FILE_LOGGER_ROOT", str(Path(trial.checkpoints).parent / "verl_metrics"))
    from configs.schema import MergeConfig
    from merging.exopd.job import merge_job
    from trainer.job import TrainingJob
    from trainer.overrides import verl_config
    from trainer.sft import SftJob, sft_config

    ranks = int(os.environ["WORLD_SIZE"])
    hardware = {"device": "cpu", "gpus": ranks, "tokens_per_device": trial.tokens_per_device}
    domain = {"expert": {"kind": "model", "path": "/expert"}, "reward": "exact",
              "prompts": {"kind": "file", "path": "/prompts.jsonl"}}  # fmt: skip
    training = {"steps": 4, "prompts_per_step": ROWS, "max_prompt_tokens": 72, "max_response_tokens": 48,
                "learning_rate": 1e-3}  # fmt: skip
    if trial.lora:
        training |= {"lora_rank": LORA.rank, "lora_alpha": LORA.alpha}
    config = MergeConfig.model_validate({
        "name": "ranks", "student": str(STUDENT), "domains": dict.fromkeys(TEACHERS, domain),
        "training": training, "hardware": hardware,
        "objective": {"estimator": ESTIMATORS.get(trial.kind, "sampled")},
    })  # fmt: skip
    file, folder = Path("/run/train.parquet"), Path(trial.checkpoints).parent
    shared = {"name": "ranks", "model_path": str(STUDENT), "train_file": file, "folder": folder, "steps": 4,
              "learning_rate": 1e-3, "save_every": 1, "seed": 0, "hardware": config.hardware}  # fmt: skip
    lora = replace(LORA, start=trial.begun) if trial.lora else None
    if trial.kind == "sft":
        return sft_config(SftJob(rows_per_step=ROWS, lora=lora, **shared), "metrics")
    if trial.kind in ESTIMATORS:
        start = None if trial.begun is None else Path(trial.begun)
        return verl_config(merge_job(config, "merge", TEACHERS, file, folder, start=start), "metrics")
    job = TrainingJob(
        prompts_per_step=ROWS // 4, samples_per_prompt=4, max_prompt_tokens=72, max_response_tokens=48,
        lora=lora, reward_function=("teachers.rewards", "x"), **shared,
    )  # fmt: skip
    return verl_config(job, "metrics")


# --------------------------------------------------------------------------------------------- rows


def _jagged(rows: Any) -> Any:
    import torch

    return torch.nested.as_nested_tensor([torch.as_tensor(row) for row in rows], layout=torch.jagged)


def _draw(step: int) -> list[SimpleNamespace]:
    """All rows of a step, of very different lengths: log-probabilities are made up, in (-3, -0.1)."""
    import torch

    generator = torch.Generator().manual_seed(step)
    rows = []
    for index in range(ROWS):
        prompt, response = 8 + 5 * index, 4 + 5 * ((3 * index) % ROWS)
        total = prompt + response
        logp = -torch.rand(4, total, generator=generator) * 2.9 - 0.1
        tokens = torch.randint(3, VOCABULARY, (total,), generator=generator)
        advantages = torch.randn(1, generator=generator).expand(response).clone()
        teacher = ("math", "code", "math")[index % 3]
        rows.append(SimpleNamespace(prompt=prompt, response=response, tokens=tokens, logp=logp,
                                    advantages=advantages, teacher=teacher))  # fmt: skip
    return rows


def _batch(own: Sequence[int], step: int) -> Any:
    """This rank's rows in the fields of verl's agent loop and trainer."""
    import torch
    from tensordict import NonTensorStack, TensorDict

    drawn = _draw(step)
    rows = [drawn[index] for index in own]
    ones = _jagged([1] * row.response for row in rows)

    def scoring(row: SimpleNamespace, values: Any) -> Any:
        return values[row.prompt - 1 : -1]

    batch = TensorDict(
        {
            "input_ids": _jagged(row.tokens for row in rows),
            "position_ids": _jagged(torch.arange(len(row.tokens)) for row in rows),
            "prompts": _jagged(row.tokens[: row.prompt] for row in rows),
            "responses": _jagged(row.tokens[row.prompt :] for row in rows),
            "response_mask": ones,
            "loss_mask": ones,
            "old_log_probs": _jagged(scoring(row, row.logp[0]) for row in rows),
            "rollout_log_probs": _jagged(scoring(row, row.logp[0]) for row in rows),
            "rollout_is_weights": _jagged(scoring(row, row.logp[3]).exp() for row in rows),
            "advantages": _jagged(row.advantages for row in rows),
            "teacher_logprobs": _jagged(row.logp[1:3].T for row in rows),
        },
        batch_size=len(rows),
    )
    batch["teacher"] = NonTensorStack(*[row.teacher for row in rows])
    batch["reward_scale"] = NonTensorStack(*[SCALES[row.teacher] for row in rows])
    batch["loss_weight"] = NonTensorStack(*[1.0 for _ in rows])
    return batch


def _attach_distribution(batch: Any, kind: str) -> None:
    """log q of the whole vocabulary, or of some tokens and the rest, drawn from each row's own tokens."""
    import torch

    columns, ids = [], []
    for tokens, scores in zip(batch["input_ids"].unbind(), batch["teacher_logprobs"].unbind(), strict=True):
        generator = torch.Generator().manual_seed(int(tokens.sum()))
        log_q = torch.randn(len(tokens), VOCABULARY, generator=generator).log_softmax(-1)
        if kind == "topk":
            log_q, chosen = log_q.topk(TOP_K)
            ids.append(chosen.int())
            scores = torch.cat([scores, (1 - log_q.exp().sum(-1, keepdim=True)).log()], dim=-1)
        columns.append(torch.cat([scores, log_q], dim=-1))
    batch["teacher_logprobs"] = _jagged(columns)
    if ids:
        batch["teacher_ids"] = _jagged(ids)


if __name__ == "__main__":
    main()
