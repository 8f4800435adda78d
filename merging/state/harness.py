"""Whether each benchmark's grader accepts the benchmark's own solutions, asked before hours are spent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import TypedDict

from common.errors import ConfigError
from common.files import write_json
from common.progress import say
from common.reading import read_json

if TYPE_CHECKING:
    from merging.state.run_folder import RunFolder

LOWEST_CEILING = 0.99
"""Below this the grader, the problem file or this machine is at fault, not a model."""


class Ceiling(TypedDict):
    """What is kept of one benchmark."""

    digest: str
    ceiling: float | None


def check_harness(folder: RunFolder) -> None:
    """Prints every benchmark's ceiling; one below 99% warns, or stops as `evaluation.harness` has it.

    Raises ConfigError for `stop`.
    """
    low = []
    for name, ceiling in ceilings(folder).items():
        if ceiling is None:
            continue
        say(f"harness: {name} accepts {ceiling:.1%} of its own solutions")
        if ceiling < LOWEST_CEILING:
            low.append(
                f"benchmark {name}: its grader accepts {ceiling:.1%} of the benchmark's own solutions here, "
                f"which should be {LOWEST_CEILING:.0%} or more; no model's score can be trusted"
            )
    if low and folder.config.evaluation.harness == "stop":
        raise ConfigError(*low)
    for problem in low:
        say(f"warning: {problem}")


def ceilings(folder: RunFolder, grades: bool = True) -> dict[str, float | None]:
    """By benchmark: share of its own solutions that its grader accepts, in [0, 1]; None where it has none.

    Kept in the run's `harness.json` under a digest of all that changes a verdict. Without `grades` nothing is
    added to it: raises ConfigError if a benchmark is not in it.
    """
    from eval.benchmarks import open_benchmark
    from eval.benchmarks.task import self_check

    path = harness_file(folder)
    kept = read_json(path, dict[str, Ceiling], "the graders' ceilings") if path.exists() else {}
    found: dict[str, Ceiling] = {}
    for domain in folder.config.domains.values():
        for declared in domain.benchmarks:
            task = open_benchmark(declared)
            known = kept.get(task.name)
            if known is None or known["digest"] != task.digest:
                if not grades:
                    raise ConfigError(
                        f"benchmark {task.name}: its grader has not been tried on its solutions"
                    )
                known = Ceiling(
                    digest=task.digest, ceiling=None if task.canonical is None else self_check(task)
                )
            found[task.name] = known
    if found != kept or not path.exists():
        write_json(path, found)
    return {name: known["ceiling"] for name, known in found.items()}


def harness_file(folder: RunFolder) -> Path:
    """Where a run keeps what `ceilings` found."""
    return folder.path / "harness.json"
