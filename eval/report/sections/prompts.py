"""What became of a run's prompts: kept, dropped by reason, repeating a benchmark, trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Counts = Mapping[str, int]
"""Numbers by domain."""

PROMPT_CAPTION = (
    "Prompts that may be trained on, and those that were dropped, by reason. Those that stand in another "
    "domain too, or repeat a benchmark's problem, were dropped or trained on as the config says."
)
TRAINING_CAPTION = (
    "A row is a prompt with all its rollouts. Counted by loss: as the loss saw them, in the steps that were "
    "measured; by file: as the training file holds them, which was read to its end."
)

SHARES_CAPTION = (
    "Each domain's share of the steps, in proportion to the distance of its validation accuracy (in "
    "brackets, mean of both decodings) to its optimum, and none below the floor."
)


@dataclass(frozen=True)
class SharePlan:
    """The shares of some steps in a row of a training that planned them by its validations."""

    training: str
    first_step: int
    last_step: int
    validation: int | None
    """Step of the validation that they follow; None for equal shares, before the first one counts."""
    accuracy: Mapping[str, float]
    """By domain, what it found."""
    shares: Mapping[str, float]
    """By domain; they add up to 1."""


@dataclass(frozen=True)
class TrainingRows:
    """The rows of one training: a prompt and all its rollouts are one."""

    training: str
    """`merge`, or `baseline <name>`."""
    planned: Counts
    """Rows that the mixing gives each domain."""
    trained: Counts
    """Rows that were trained on; a domain that is absent was not measured."""
    steps: int
    measured_steps: int
    """Steps that `trained` covers; a step whose process ended before its line was written is not measured."""
    counted: Literal["loss", "file"]
    """`loss`: as the loss saw them; `file`: as the file holds them that the training read to its end."""


@dataclass(frozen=True)
class PromptUse:
    """A run's prompts by domain; empty where nothing is known of them."""

    prompts: Counts = field(default_factory=dict)
    """Prompts that may be trained on, before a balanced mixing leaves some out."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Share of every step; of trainings without validations where those plan the shares."""
    share_range: tuple[float, float] | None = None
    """Least and largest share where validations plan the shares; else None."""
    dropped: Mapping[str, Counts] = field(default_factory=dict)
    """By reason: prompts that were read and are not trained on."""
    conflicts: Counts = field(default_factory=dict)
    """Prompts that stand in another domain too, dropped or trained on."""
    overlaps: Mapping[str, Counts] = field(default_factory=dict)
    """By benchmark: prompts that repeat one of its problems, dropped or trained on."""
    trainings: tuple[TrainingRows, ...] = ()
    planned_shares: tuple[SharePlan, ...] = ()
    """By training, in the order of their steps."""


def to_json(use: PromptUse) -> dict[str, Any]:
    """Plain values for `report.json`."""
    return {
        "found": dict(use.prompts),
        "shares": dict(use.shares),
        "dropped": {reason: dict(counts) for reason, counts in use.dropped.items()},
        "conflicts": dict(use.conflicts),
        "overlaps": {benchmark: dict(counts) for benchmark, counts in use.overlaps.items()},
        "trainings": {
            rows.training: {
                "planned": dict(rows.planned),
                "trained": dict(rows.trained),
                "steps": rows.steps,
                "measured_steps": rows.measured_steps,
                "counted": rows.counted,
            }
            for rows in use.trainings
        },
        **({"share_range": list(use.share_range)} if use.share_range else {}),
        **({"planned_shares": [asdict(plan) for plan in use.planned_shares]} if use.planned_shares else {}),
    }


def tables(use: PromptUse) -> dict[str, Any]:
    """What the templates of the report show."""
    return {
        "prompt_table": domain_table(use),
        "prompt_caption": PROMPT_CAPTION,
        "training_table": training_table(use),
        "training_caption": TRAINING_CAPTION,
        "shares_table": shares_table(use),
        "shares_caption": SHARES_CAPTION,
    }


@dataclass(frozen=True)
class Table:
    """A table whose first column names the row."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


def domain_table(use: PromptUse) -> Table | None:
    """A row a domain; a column a reason, and a benchmark, that there is. None where nothing is known."""
    if not use.prompts:
        return None
    columns = {"Prompts": use.prompts}
    columns |= {f"Dropped: {reason}": counts for reason, counts in use.dropped.items()}
    columns |= {"Also in another domain": use.conflicts} if use.conflicts else {}
    columns |= {f"Repeats of {name}": counts for name, counts in use.overlaps.items()}
    domains = dict.fromkeys(name for counts in columns.values() for name in counts)
    shares = {name: f"{share:.1%}" for name, share in use.shares.items()}
    if use.share_range:
        least, most = use.share_range
        shares = dict.fromkeys(shares, f"{least:.1%} to {most:.1%}")
    rows = [
        # what was dropped before it had a domain stands under a name of its own
        [name, shares.get(name, "none" if shares else "not measured")]
        + [str(counts.get(name, 0)) for counts in columns.values()]
        for name in domains
    ]
    return Table(["Domain", "Share of every step", *columns], rows)


def training_table(use: PromptUse) -> Table | None:
    """A row for each training and domain; None where nothing is known."""
    rows = [
        [
            rows.training,
            domain,
            str(planned),
            str(rows.trained.get(domain, "not measured")),
            f"{rows.measured_steps} of {rows.steps}",
            rows.counted,
        ]
        for rows in use.trainings
        for domain, planned in rows.planned.items()
    ]
    heads = ["Training", "Domain", "Rows planned", "Rows trained", "Steps counted", "Counted by"]
    return Table(heads, rows) if rows else None


def shares_table(use: PromptUse) -> Table | None:
    """A row for each training and the steps that follow one of its validations; None where none plans
    shares."""
    plans = use.planned_shares
    if not plans:
        return None
    domains = list(plans[0].shares)
    rows = [
        [
            plan.training,
            f"{plan.first_step} to {plan.last_step}",
            "none yet" if plan.validation is None else str(plan.validation),
            *(_share_cell(plan, name) for name in domains),
        ]
        for plan in plans
    ]
    return Table(["Training", "Steps", "Validation after step", *domains], rows)


def _share_cell(plan: SharePlan, domain: str) -> str:
    accuracy = plan.accuracy.get(domain)
    return f"{plan.shares[domain]:.1%}" + ("" if accuracy is None else f" ({accuracy:.1%})")
