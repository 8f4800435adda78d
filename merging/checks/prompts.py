"""Which prompts are trained on: read and routed, of one domain each, short enough, in every domain."""

from __future__ import annotations

from common.errors import ConfigError
from merging.checks.found import Preflight, needs_student
from merging.state.polished import controls
from routing.judged import check_polish, polish_counts
from routing.kept import check_mix
from routing.modes.chat_text import unlike
from routing.modes.mode_check import refused_modes
from routing.prompt_state import UNDECIDED, check_system_prompts


def sources(found: Preflight) -> Preflight:
    """Refuses sources that cannot be read, and prompts that neither a label nor the router places."""
    return found.read(found.config, found.run_dir)


def system_prompts(found: Preflight) -> None:
    """Refuses prompts that have a system message in a domain that has one."""
    check_system_prompts(found.config, found.left)


@needs_student
def modes(found: Preflight) -> None:
    """Refuses arguments and system messages of domains that the student's chat template does not read."""
    modes = found.config.prompt_modes()
    asked = {
        name: unlike(
            item.prompt.messages
            for item in found.left
            if item.domain in (name, UNDECIDED) and mode.takes(item.prompt.messages)
        )
        for name, mode in modes.items()
    }
    if problems := refused_modes(found.config, found.student, asked):
        raise ConfigError(*problems)


def conflicts(found: Preflight) -> Preflight:
    """Refuses prompts of several domains, with `conflicts: refuse`."""
    return found.without_conflicts(found.config.conflicts)


@needs_student
def lengths(found: Preflight) -> Preflight:
    """Refuses prompts above the length limit, with `training.too_long: refuse`."""
    return found.without_long(found.student, found.config)


MOST_ROWS = 10**8
"""Of a training file, which is held as a whole while it is written."""


def rows(found: Preflight) -> None:
    """Refuses trainings of more rows than one file can have."""
    training = found.config.training
    if (count := training.steps * training.prompts_per_step) > MOST_ROWS:
        raise ConfigError(
            f"training: steps * prompts_per_step = {count} rows, of which at most {MOST_ROWS} are written"
        )


def mixing(found: Preflight) -> None:
    """Refuses a domain without prompts or rows, once every prompt has its domain."""
    if found.is_read and not found.undecided:
        check_mix(found.config, found.routed, found.dropped)


def polish_prompts(found: Preflight) -> None:
    """Refuses a polish without prompts to judge, and controls whose rollouts devices cannot share."""
    config, hardware = found.config, found.config.hardware
    if config.polish is None or not found.is_read or found.undecided:
        return
    check_polish(config, config.polish, found.routed)
    devices = hardware.gpus * hardware.nodes
    for control in controls(config, polish_counts(config, found.routed)):
        rollouts = control.prompts_per_step * control.samples_per_prompt
        if rollouts % devices:
            raise ConfigError(
                f"baselines: `teacher_more` has {control.prompts_per_step} prompts of {control.domain} a "
                f"step (the domain's share of the polish), so {rollouts} rollouts, not a multiple of the "
                f"{devices} devices (hardware.gpus * hardware.nodes); a polish.samples_per_prompt that is "
                "one always fits"
            )
