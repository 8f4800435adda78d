"""What a merge maximises, as declared: lambda, the reference, and how the gradient is estimated."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt

from configs.guards import Alarms
from configs.strict import Strict, by_kind

AUTO = "auto"
"""Lambda is what `protege probe` finds best."""

PAPER_REWARD_SCALE = 1.25
"""The paper's lambda (arXiv 2602.12125)."""


def _number_or_auto(value: object) -> object:
    """One message for both alternatives, where pydantic would give one for each."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if value == AUTO or (is_number and value >= 0):
        return value
    raise ValueError(f"expected a number of at least 0, or `auto`; got {value!r}")


RewardScale = Annotated[Annotated[float, Field(ge=0)] | Literal["auto"], BeforeValidator(_number_or_auto)]


class SampledEstimator(Strict):
    """The paper's: a policy gradient on the sampled token, A*grad log p, with A = lambda*(T-B) - (S-B)."""

    kind: Literal["sampled"] = "sampled"
    importance_weight_cap: PositiveFloat = 5.0
    """Upper limit of the token-level weight exp(S_trainer - S_sampler)."""


class FullEstimator(Strict):
    """The same gradient without the sampled token's variance: KL(student || q) over the vocabulary as a
    direct loss, q = softmax(lambda*T + (1-lambda)*B). For small vocabularies: the scorer sends all of q."""

    kind: Literal["full"]


class TopKEstimator(Strict):
    """As `full`, over the `k` likeliest tokens of q and one bucket that holds all others."""

    kind: Literal["topk"]
    k: PositiveInt = 64
    """Tokens kept of each distribution."""


Estimator = Annotated[SampledEstimator | FullEstimator | TopKEstimator, Field(discriminator="kind")]

EstimatorName = Literal["sampled", "full", "topk"]

NamedEstimator = Annotated[
    Estimator, BeforeValidator(by_kind, json_schema_input_type=EstimatorName | Estimator)
]
"""A block, or its kind alone for the block's defaults."""


class StudentReference(Strict):
    """The student's initial weights."""

    kind: Literal["student"]


class TeacherBaseReference(Strict):
    """Reward correction: each teacher's own model of before its reinforcement learning, the expert's
    `base`. Where an expert that is built here names none, it is the student."""

    kind: Literal["teacher_base"]


class ModelReference(Strict):
    """One model for all domains."""

    kind: Literal["model"]
    path: str
    """Model folder or hub name; must share the student's tokenizer."""


Reference = Annotated[StudentReference | TeacherBaseReference | ModelReference, Field(discriminator="kind")]

ReferenceName = Literal["student", "teacher_base"]

NamedReference = Annotated[
    Reference, BeforeValidator(by_kind, json_schema_input_type=ReferenceName | Reference)
]
"""A block, or its kind alone for one that has no options."""


class Objective(Strict):
    """G-OPD: maximise lambda*log(teacher/reference) - KL(student || reference) (arXiv 2602.12125)."""

    reward_scale: RewardScale = PAPER_REWARD_SCALE
    """Lambda: 0 keeps the reference, 1 is plain on-policy distillation, above 1 extrapolates. `auto` tries
    those of `probe.reward_scales` before the merge and takes each domain's best, or 1.25 where none is better
    beyond noise."""
    reward_scale_warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps over which lambda moves linearly from 1 (plain distillation) to its value; 0: no warm-up."""
    reference: NamedReference = StudentReference(kind="student")
    """Whose log-probability B is, by name (`student`, `teacher_base`) or as a block."""
    estimator: NamedEstimator = SampledEstimator()
    """How its gradient is estimated, by name (`sampled`, `full`, `topk`) or as a block."""

    largest_log_ratio: PositiveFloat = 100.0
    """Guard: |T - B| of a sampled token above this, or a number that is not finite, ends the run with domain
    and token (natural logs)."""

    largest_start_difference: PositiveFloat = 0.2
    """Guard: before the first update the student is the reference, so trainer and scorer must read the same
    log-probabilities. A mean |S - B| above this in step 1 (nats a token) ends the run: tokens are misaligned,
    or the reference is another model. Not checked where no domain's reference is scored (lambda 1)."""

    alarms: Alarms = Alarms()
    """Guards on the answers' length and end while the student trains."""


class DomainObjective(Strict):
    """What a domain overrides in the objective."""

    reward_scale: RewardScale | None = None
    """Lambda (or `auto`) for this domain's prompts; by default the global one."""
    weight: PositiveFloat = 1.0
    """Factor of this domain's token losses, where one domain should count more."""


class Probe(Strict):
    """What `protege probe` and `reward_scale: auto` sample from the objective's known optimum."""

    reward_scales: Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(min_length=1)] = (
        0.0, 0.5, 1.0, 1.25, 1.5, 2.0,
    )  # fmt: skip
    """Lambdas that are tried; `auto` tries 1.25 in any case."""
    prompts: PositiveInt = 100
    """Prompts of each domain: of its `validation`, else of its training prompts."""
    samples_per_prompt: PositiveInt = 4
    """Answers to each prompt at each lambda."""
