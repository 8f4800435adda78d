"""The baseline `sft`: the base student fine-tuned on the routed teachers' answers to the merge's prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.progress import bar
from configs.blocks.baselines import SftBaseline
from configs.schema import MergeConfig
from merging.state.baseline_record import open_work, options, write_record
from merging.state.run_folder import RunFolder
from routing.trained_rows import check_file
from trainer.export import export
from trainer.job import merge_settings
from trainer.run import last_checkpoint, read_metrics, train
from trainer.sft import SftJob

if TYPE_CHECKING:
    from eval.records import Completion, Problem
    from merging.state.cluster import Cluster
    from merging.state.teacher import Teacher

METRICS = {"loss": "train/loss", "gradient_norm": "train/grad_norm", "learning_rate": "train/lr"}
"""Our name of each of verl's metrics that is kept."""


def train_sft(
    folder: RunFolder, baseline: SftBaseline, teachers: Sequence[Teacher], cluster: Cluster, target: Path
) -> None:
    """Samples the teachers' answers, trains on them, or continues, and exports the model to `target`.

    Raises common.errors.RunFailed.
    """
    name, work = baseline.kind, folder.path / baseline.kind
    open_work(baseline, work)
    rows = work / "answers.parquet"
    if not rows.exists():
        write_answers(folder, teachers, rows)
    check_file(rows, folder.counts()["rows"], folder.config.training.samples_per_prompt)
    job = sft_job(folder.config, baseline, rows, work)
    with bar(f"baseline {name}", job.steps, last_checkpoint(job.checkpoints)) as shown:
        train(job, cluster(), lambda step, raw: shown.update(step, f"loss {raw[METRICS['loss']]:.3f}"))
    lines = [_line(raw) for raw in read_metrics(work)]
    folder.write_metrics(name, lines)
    export(job.checkpoints, job.steps, Path(folder.config.student), target, job.lora)
    # last: a model without a record counts as made by other options, and is exported again
    write_record(baseline, target)


def sft_job(config: MergeConfig, baseline: SftBaseline, rows: Path, work: Path) -> SftJob:
    """The merge's student, steps, sequences a step and optimizer, on rows of token ids.

    The block's own learning rate, where it has one, takes the place of the merge's.
    """
    training = config.training
    settings: dict[str, Any] = merge_settings(SftJob, training) | options(baseline)
    return SftJob(
        **settings,
        name=baseline.kind,
        model_path=config.student,
        train_file=rows,
        folder=work,
        rows_per_step=training.prompts_per_step * training.samples_per_prompt,
        hardware=config.hardware,
        verl_settings=config.verl_settings(baseline),
    )


def _line(raw: dict[str, Any]) -> dict[str, float]:
    return {"step": raw["step"]} | {name: raw[key] for name, key in METRICS.items() if key in raw}


# ------------------------------------------------------------------------------------------- answers


def write_answers(folder: RunFolder, teachers: Sequence[Teacher], target: Path) -> None:
    """Writes one answer for each rollout of the merge, by its prompt's own teacher, at temperature 1.

    Columns: `teacher`, `prompt_ids` and `response_ids`, the token ids that the student would read and be
    trained on; the end token closes an answer that ended by itself. The file appears whole or not at all.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from routing.dataset import write_whole

    rows = pq.read_table(folder.prompts_file, columns=["prompt", "teacher"]).to_pylist()
    answers = _sample(folder, teachers, rows, target.with_name("generation.log"))
    tokenized = list(_tokenized(folder.config, rows, answers))
    ids = pa.list_(pa.int32())
    schema = pa.schema([("teacher", pa.string()), ("prompt_ids", ids), ("response_ids", ids)])
    write_whole(pa.Table.from_pylist(tokenized, schema=schema), target)


def _sample(
    folder: RunFolder, teachers: Sequence[Teacher], rows: Sequence[dict[str, Any]], log: Path
) -> dict[str, list[Completion]]:
    """The answers by row number, as text: one for each rollout of the merge."""
    from eval.generation.generate import Generator, placed_on
    from eval.records import Problem

    training, modes = folder.config.training, folder.config.prompt_modes()
    answers: dict[str, list[Completion]] = {}
    with (
        bar("baseline sft: teachers' answers", len(rows) * training.samples_per_prompt) as shown,
        Generator(
            **placed_on(folder.config.hardware),
            max_model_len=training.max_prompt_tokens + training.max_response_tokens,
            log_path=log,
        ) as generator,
    ):
        for teacher in teachers:
            own: list[Problem] = [
                Problem(str(place), tuple(row["prompt"]), None)
                for place, row in enumerate(rows)
                if row["teacher"] == teacher.domain
            ]
            before = sum(map(len, answers.values()))
            generator.chat_template = modes[teacher.domain].chat_template  # of the requests that follow
            answers |= generator.generate(
                Path(teacher.folder),
                own,
                mode="sampled",
                n=training.samples_per_prompt,
                temperature=1.0,
                seed=training.seed,
                max_tokens=training.max_response_tokens,
                on_progress=lambda done, before=before: shown.update(before + done, ""),
            )
    return answers


def _tokenized(
    config: MergeConfig, rows: Sequence[dict[str, Any]], answers: dict[str, list[Completion]]
) -> Iterator[dict[str, Any]]:
    """The rows of the file, in the merge's order."""
    from transformers import AutoTokenizer

    tokenizer, modes = AutoTokenizer.from_pretrained(config.student), config.prompt_modes()
    for place, row in enumerate(rows):
        # the rows have their system message
        how = {"add_generation_prompt": True, "return_dict": True, **modes[row["teacher"]].chat_template}
        prompt = tokenizer.apply_chat_template(row["prompt"], tokenize=True, **how)["input_ids"]
        for answer in answers[str(place)]:
            response = tokenizer(answer.text, add_special_tokens=False)["input_ids"]
            response += [tokenizer.eos_token_id] * answer.finished
            yield {"teacher": row["teacher"], "prompt_ids": prompt, "response_ids": response}
