"""Whether the rows that verl trained on are those that were planned, domain by domain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.errors import RunFailed


def check_written(rows: Mapping[str, int], planned: Mapping[str, int]) -> None:
    """The training file must hold the rows that the plan counts."""
    assert dict(rows) == dict(planned), f"rows by domain: planned {planned}, written {dict(rows)}"


def check_trained(
    train_file: Path,
    planned: Mapping[str, int],
    lines: Sequence[Mapping[str, float]],
    prompts_per_step: int,
    samples_per_prompt: int,
) -> None:
    """Compares plan, training file and what the loss saw (`teacher/<domain>/sequences` of each step).

    `planned` are the rows of each domain in the whole training. A step without a line was not measured
    (the process ended between a checkpoint and its line) and is not compared. Raises RunFailed.
    """
    teachers = check_file(train_file, planned)
    for line in lines:
        step = int(line["step"])
        own = Counter(teachers[(step - 1) * prompts_per_step : step * prompts_per_step])
        wanted = {domain: own[domain] * samples_per_prompt for domain in planned}
        trained = {domain: round(line.get(f"teacher/{domain}/sequences", 0.0)) for domain in planned}
        if trained != wanted:
            raise RunFailed(
                f"step {step}: planned {_text(wanted)} rollouts by domain, trained on {_text(trained)}; "
                f"the trainer did not read the rows of {train_file} in their order"
            )


def check_file(train_file: Path, planned: Mapping[str, int], rows_per_prompt: int = 1) -> list[str]:
    """The teacher of each row of a training file, which must hold every domain's planned prompts, each in
    `rows_per_prompt` rows. Raises RunFailed."""
    import pyarrow.parquet

    teachers = pyarrow.parquet.read_table(train_file, columns=["teacher"]).column("teacher").to_pylist()
    wanted = {domain: count * rows_per_prompt for domain, count in planned.items()}
    if Counter(teachers) != Counter(wanted):
        raise RunFailed(
            f"{train_file} holds {_text(Counter(teachers))} rows, and the plan says {_text(wanted)}"
        )
    return teachers


def trained_rows(
    lines: Sequence[Mapping[str, float]], domains: Sequence[str], samples_per_prompt: int
) -> dict[str, int]:
    """Rows of each domain in the steps that were measured; empty where none was."""
    if not any(f"teacher/{domain}/sequences" in line for line in lines for domain in domains):
        return {}
    return {
        domain: round(
            sum(line.get(f"teacher/{domain}/sequences", 0.0) for line in lines) / samples_per_prompt
        )
        for domain in domains
    }


def _text(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{domain} {count}" for domain, count in sorted(counts.items()))
