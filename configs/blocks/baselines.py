"""What is compared beside the student: other trainings of the base, and merges of the experts' weights.

A task vector is an expert's weights minus those of the base student.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PositiveFloat

from configs.blocks.strict import Seed, Strict, by_kind
from configs.verl_settings import VerlSettings


class OpdBaseline(Strict):
    """On-policy distillation: the merge's training at lambda 1, with the same start, prompts, steps, learning
    rate and `objective.verifiable`."""

    kind: Literal["opd"]

    @property
    def reward_scale(self) -> float:
        """Lambda."""
        return 1.0


class InterpolationBaseline(Strict):
    """The merge's training at a lambda below 1, between reference and teachers, else as `opd`."""

    kind: Literal["interpolation"]
    reward_scale: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Lambda of all domains, in all steps."""


class GrpoBaseline(Strict):
    """One model trained by GRPO on all domains from the base student, without teachers: the merge's prompts,
    rollouts, steps, lengths, seed and, unless it has its own, learning rate; each answer is judged by the
    `reward` of its domain."""

    kind: Literal["grpo"]
    samples_per_prompt: Annotated[int, Field(ge=2)] = 8
    """Rollouts of one prompt: the group that GRPO compares. A step takes as many prompts as make the
    rollouts of the merge's step, `training.prompts_per_step * training.samples_per_prompt`."""
    learning_rate: PositiveFloat | None = None
    """AdamW's learning rate; by default the merge's, which may be too high where only rewards teach."""
    verl: VerlSettings | None = None
    """Further settings of verl's, laid over the top-level `verl`."""

    def prompts_per_step(self, rollouts: int, domains: int) -> int:
        """Prompts of a step of so many rollouts.

        Raises ValueError, naming the valid group sizes, unless that is a whole number and gives every domain
        one.
        """
        prompts, rest = divmod(rollouts, self.samples_per_prompt)
        if not rest and prompts >= domains:
            return prompts
        sizes = [size for size in range(2, rollouts // domains + 1) if rollouts % size == 0]
        more = f"none does; with training.prompts_per_step = {2 * domains}, 2 would"
        raise ValueError(
            "baselines: `grpo` makes as many rollouts a step as the merge (training.prompts_per_step * "
            f"training.samples_per_prompt = {rollouts}), so its samples_per_prompt must divide them into at "
            f"least {domains} prompts, one for each domain; {self.samples_per_prompt} does not; "
            + (f"valid: {', '.join(map(str, sizes))}" if sizes else more)
        )


class SftBaseline(Strict):
    """Supervised fine-tuning of the base student on the routed teachers' answers at temperature 1, one for
    each rollout of the merge: the same prompts, sequences, steps and, unless it has its own, learning
    rate."""

    kind: Literal["sft"]
    learning_rate: PositiveFloat | None = None
    """AdamW's learning rate; by default the merge's."""
    verl: VerlSettings | None = None
    """Further settings of verl's SFT trainer, whose keys are others than those of the top-level `verl`."""


class OpdMoreBaseline(Strict):
    """The control of `polish` that spends the polish's rollouts on more distillation. The distilled student
    is trained on by the merge's objective and recipe, with a new optimizer, for as few steps of the merge's
    size as hold those rollouts. It reads the prompts that a longer merge would have read next, shuffled; each
    domain's lambda is the one that the merge ended with."""

    kind: Literal["opd_more"]
    learning_rate: PositiveFloat | None = None
    """AdamW's learning rate; by default the merge's."""


class OracleBaseline(Strict):
    """The routed oracle: on each domain's benchmarks, the answers of that domain's own teacher, so what a
    perfect router among the experts would reach. Nothing is trained or sampled for it."""

    kind: Literal["oracle"]


class TeacherMoreBaseline(Strict):
    """The control of `polish`: each expert of kind `rl` trained on by GRPO as the polish trains the student,
    on the polish's own rows of its domain, so with as many rollouts. One model a domain,
    `<domain>-teacher-more`, evaluated on the benchmarks of its domain. Given experts have none."""

    kind: Literal["teacher_more"]
    learning_rate: PositiveFloat | None = None
    """AdamW's learning rate; by default the polish's."""


class AverageBaseline(Strict):
    """Mean of the experts' weights."""

    kind: Literal["average"]


class TaskArithmeticBaseline(Strict):
    """Base plus the scaled sum of the task vectors (arXiv 2212.04089)."""

    kind: Literal["task_arithmetic"]
    scale: PositiveFloat = 1.0
    """Factor of the sum; 1 / number of experts gives the average."""


class TiesBaseline(Strict):
    """TIES (arXiv 2306.01708): each task vector is trimmed to its largest entries, each weight takes the sign
    with the larger total, and the entries of that sign are averaged."""

    kind: Literal["ties"]
    density: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Share of each task vector that is kept, over all its weights together."""
    scale: PositiveFloat = 1.0
    """Factor of what is added to the base."""


class DareBaseline(Strict):
    """DARE (arXiv 2311.03099): entries of each task vector are dropped at random, the others divided by
    1 - `drop_rate`; the base plus the plain mean of these vectors."""

    kind: Literal["dare"]
    drop_rate: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Probability that an entry is dropped."""
    scale: PositiveFloat = 1.0
    """Factor of what is added to the base."""
    seed: Seed = 42
    """Seed of the choice."""


class ExtrapolationBaseline(Strict):
    """Base plus `factor` times the way from it to the average, in the manner of ExPO (arXiv 2404.16792): in
    weights what lambda is in log-probabilities."""

    kind: Literal["extrapolation"]
    factor: PositiveFloat = 1.25
    """1 gives the average, above 1 lies past it."""


WeightBaseline = (
    AverageBaseline | TaskArithmeticBaseline | TiesBaseline | DareBaseline | ExtrapolationBaseline
)
"""Those that are computed from weights; `merging.baselines.weights.METHODS` holds their implementations."""

DistilledBaseline = OpdBaseline | InterpolationBaseline
"""Those that are the merge's own training at another lambda."""

ScoredBaseline = DistilledBaseline | OpdMoreBaseline
"""Those whose rollouts teachers score."""

TrainedBaseline = DistilledBaseline | SftBaseline | GrpoBaseline | OpdMoreBaseline
"""Those that are trained: as the merge is, or, as `opd_more`, from where it ended."""

ModelBaseline = TrainedBaseline | WeightBaseline
"""Those that are a model of their own."""

Baseline = Annotated[ModelBaseline | OracleBaseline | TeacherMoreBaseline, Field(discriminator="kind")]

BaselineName = Literal[
    "opd",
    "interpolation",
    "sft",
    "grpo",
    "opd_more",
    "average",
    "task_arithmetic",
    "ties",
    "dare",
    "extrapolation",
    "oracle",
    "teacher_more",
]


def _kinds_are_unique(baselines: tuple[Baseline, ...]) -> tuple[Baseline, ...]:
    kinds = [baseline.kind for baseline in baselines]
    twice = next((kind for kind in kinds if kinds.count(kind) > 1), None)
    if twice is not None:
        raise ValueError(
            f"{twice!r} is listed twice; list each kind once, since it is the baseline's name in samples and "
            "report"
        )
    return baselines


NamedBaseline = Annotated[Baseline, BeforeValidator(by_kind, json_schema_input_type=BaselineName | Baseline)]
"""A block, or its kind alone for the block's defaults."""

Baselines = Annotated[tuple[NamedBaseline, ...], AfterValidator(_kinds_are_unique)]
