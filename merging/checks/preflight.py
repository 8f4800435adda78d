"""Everything that can be refused before Ray starts, in one pass; each problem is one message."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.errors import ConfigError
from common.reading import reaching
from configs.load import LoadedConfig
from merging.checks.answers import answers, experts_prompts
from merging.checks.benchmarks import benchmarks, problem_lengths, repeats
from merging.checks.found import Check, Preflight
from merging.checks.machine import devices, disk, distributions, memory, registry_folder, run_folder
from merging.checks.models import (
    chat_template,
    models,
    needs_weights,
    registry_experts,
    scored_models,
    served_models,
    weight_baselines,
)
from merging.checks.objective import clipping, start
from merging.checks.parallel import (
    attention_heads,
    continued_checkpoints,
    overlap,
    sequence_parallel,
    token_budget,
)
from merging.checks.probe_prompts import probe_prompts, validations
from merging.checks.prompts import (
    conflicts,
    lengths,
    mixing,
    modes,
    polish_prompts,
    rows,
    sources,
    system_prompts,
)
from merging.checks.rewards import rewards
from merging.checks.verl_settings import verl_settings
from teachers.models import fit

Lines = Sequence[Sequence[Check]]

CHECKS: Lines = (
    (registry_folder, registry_experts),
    (run_folder,),
    (devices, sequence_parallel, overlap),
    (token_budget,),
    (continued_checkpoints,),
    (clipping,),
    (verl_settings,),
    (models, scored_models),
    (needs_weights, weight_baselines),
    (start,),
    (served_models,),
    (sources, answers, rewards, experts_prompts),
    (system_prompts,),
    (conflicts,),
    (benchmarks,),
    (repeats,),
    (validations,),
    (distributions,),
    (attention_heads,),
    (chat_template, modes, lengths, problem_lengths),
    (memory,),
    (disk,),
    (rows, mixing, probe_prompts),
    (polish_prompts,),
)
"""Run from top to bottom. The first check that refuses ends its line, because the checks after it would
report the same mistake again."""

STORED: Lines = ((registry_experts,), (run_folder,), (models,))
"""For a report that is written from stored samples."""

DECIDED: Lines = ((answers, mixing, probe_prompts, polish_prompts),)
"""Run again once the experts have given the last prompts their domain."""


def preflight(loaded: LoadedConfig, run_dir: Path, is_elsewhere: bool = False) -> Preflight:
    """Check a config against this machine; raises ConfigError with every problem found.

    Reads models' files, prompts and benchmark files, starts no training and writes nothing. `is_elsewhere` is
    for a plan of a run on another machine: the GPUs of this one are not counted.
    """
    fit.prepare()
    found = Preflight(config=loaded.config, run_dir=Path(run_dir), is_elsewhere=is_elsewhere)
    return checked(found, CHECKS)


def checked(found: Preflight, lines: Lines) -> Preflight:
    """What is known after these checks; raises ConfigError with the problems of all of them."""
    for line in lines:
        for check in line:
            before = found.problems
            try:
                with reaching():
                    found = check(found) or found
            except ConfigError as error:
                found = found.refusing(*error.problems)
            if found.problems != before:
                break
    if found.problems:
        raise ConfigError(*found.problems)
    return found
