"""What a merge maximises, as declared: lambda, the reference, and how the gradient is estimated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, NegativeFloat, PositiveFloat

from configs.blocks.strict import PositiveInt, Strict, by_kind
from configs.served import Endpoint

AUTO = "auto"
"""Lambda is what `protege probe` finds best."""

PAPER_REWARD_SCALE = 1.25
"""The paper's lambda (arXiv 2602.12125)."""


def _number_or_auto(value: object) -> object:
    """One message for both alternatives, where pydantic would give one for each."""
    if value == AUTO:
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return value
    raise ValueError(f"expected a number of at least 0, or `auto`; got {value!r}")


RewardScale = Annotated[Annotated[float, Field(ge=0)] | Literal["auto"], BeforeValidator(_number_or_auto)]


class Alarms(Strict):
    """Watches each domain's answers while the student trains. Every alarm goes to the report. Each kind is
    raised once a domain; after a back-off, again every `window` steps for as long as the trouble goes on."""

    action: Literal["warn", "back_off", "stop"] = "warn"
    """`warn`: say it and go on; `back_off`: go on from the last checkpoint with lambda 1 for that domain, or
    just warn where it is not above 1; `stop`: end the run (the same command goes on past the alarm)."""
    window: PositiveInt = 5
    """Steps whose mean is compared: the last so many with the first so many."""
    length_factor: Annotated[float, Field(gt=1)] = 2.0
    """Length alarm: answers are longer, or shorter, than at first by this factor."""
    finish_rate_drop: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Finish-rate alarm: so much smaller is the share of answers that end before the length limit."""
    end_log_probability: NegativeFloat = -15.0
    """EOS alarm: where the student ended its answers, the teacher's mean log-probability of the end token is
    below this (nats): it ends its own with another token."""
    reference_kl: PositiveFloat = 1.0
    """KL alarm: the mean of S - B over the answers' tokens, an estimate of KL(student || reference) (nats a
    token), has grown by more than this since the first step. Not watched where the reference is not read
    (lambda 1)."""
    entropy_factor: Annotated[float, Field(gt=1)] = 5.0
    """Entropy alarm: the student's entropy is smaller, or larger, than at first by this factor. Not watched
    with `metrics.entropy: false`."""


class SampledEstimator(Strict):
    """The paper's: a policy gradient on the sampled token, A*grad log p, with A = lambda*(T-B) - (S-B)."""

    compares_distributions: ClassVar[bool] = False
    """Whether the scorer sends more than the sampled token's log-probabilities."""

    kind: Literal["sampled"] = "sampled"
    importance_weight_cap: PositiveFloat = 5.0
    """Upper limit of the token-level weight exp(S_trainer - S_sampler)."""


class FullEstimator(Strict):
    """The same gradient without the sampled token's variance: KL(student || q) over the vocabulary as a
    direct loss, q = softmax(lambda*T + (1-lambda)*B). For small vocabularies: the scorer sends all of q."""

    compares_distributions: ClassVar[bool] = True

    kind: Literal["full"]


class TopKEstimator(Strict):
    """As `full`, over the `k` likeliest tokens of q and one bucket that holds all others."""

    compares_distributions: ClassVar[bool] = True

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
    """The base student, wherever training starts."""

    path: ClassVar[None] = None

    kind: Literal["student"]


class TeacherBaseReference(Strict):
    """Reward correction: each teacher's own model of before its reinforcement learning, the expert's
    `base`. Where an expert that is built here names none, it is the student."""

    path: ClassVar[None] = None

    kind: Literal["teacher_base"]


class ModelReference(Strict):
    """One model for all domains."""

    kind: Literal["model"]
    path: str
    """Model folder or hub name; must share the student's tokenizer."""


class ServedReference(Endpoint):
    """One model for all domains, read by a server, so that the reference and served teachers are read by the
    same kind of engine. It is the base student, unless `path` says otherwise."""

    kind: Literal["served"]
    path: str | None = None
    """Folder or hub name of the same model, where it is not the student; must share the student's
    tokenizer."""


Reference = Annotated[
    StudentReference | TeacherBaseReference | ModelReference | ServedReference, Field(discriminator="kind")
]

ReferenceName = Literal["student", "teacher_base"]

NamedReference = Annotated[
    Reference, BeforeValidator(by_kind, json_schema_input_type=ReferenceName | Reference)
]
"""A block, or its kind alone for one that has no options."""


class NoVerifier(Strict):
    """The teachers alone."""

    effect: ClassVar[str] = ""
    """What it does to the update, for a reader of the report."""

    kind: Literal["none"]


class AddedReward(Strict):
    """The advantage becomes A + `weight` * G: G is verl's GRPO advantage of the answer, its reward minus the
    mean over the answers to the same prompt, divided by their standard deviation."""

    kind: Literal["add"]
    weight: PositiveFloat = 1.0
    """Factor of G. A is in nats a token, G is about 1 in size."""

    @property
    def effect(self) -> str:
        """What it does to the update."""
        return f"the answers' reward added its advantage, {self.weight:g} times"


class RewardGate(Strict):
    """A token counts only where verifier and teacher agree: in a right answer (reward at least 0.5) if its A
    is above 0, in a wrong one if its A is below 0. The others have no gradient."""

    effect: ClassVar[str] = "only tokens counted on whose direction the answer's reward agreed"

    kind: Literal["gate"]


Verifiable = Annotated[NoVerifier | AddedReward | RewardGate, Field(discriminator="kind")]

VerifiableName = Literal["none", "add", "gate"]

NamedVerifiable = Annotated[
    Verifiable, BeforeValidator(by_kind, json_schema_input_type=VerifiableName | Verifiable)
]
"""A block, or its kind alone for the block's defaults."""


class DomainObjective(Strict):
    """What a domain overrides in the objective."""

    reward_scale: RewardScale | None = None
    """Lambda (or `auto`) for this domain's prompts; by default the global one."""
    weight: PositiveFloat = 1.0
    """Factor of this domain's token losses, where one domain should count more."""
    verifiable: NamedVerifiable | None = None
    """What this domain's reward does; by default as in the global objective. `none` is for a domain whose
    prompts have no answers."""


class Objective(Strict):
    """G-OPD: maximise lambda*log(teacher/reference) - KL(student || reference) (arXiv 2602.12125)."""

    reward_scale: RewardScale = PAPER_REWARD_SCALE
    """Lambda: 0 keeps the reference, 1 is plain on-policy distillation, above 1 extrapolates. `auto` tries
    those of `probe.reward_scales` before the merge and takes each domain's best in the mean of sampled and
    greedy accuracy, or 1.25 where none is better beyond noise."""
    reward_scale_warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps over which lambda moves linearly from 1 (plain distillation) to its value; 0: no warm-up."""
    reference: NamedReference = StudentReference(kind="student")
    """Whose log-probability B is, by name (`student`, `teacher_base`) or as a block."""
    estimator: NamedEstimator = SampledEstimator()
    """How its gradient is estimated, by name (`sampled`, `full`, `topk`) or as a block."""

    verifiable: NamedVerifiable = NoVerifier(kind="none")
    """What the domains' rewards do beside the teachers, by name (`none`, `add`, `gate`) or as a block. Every
    training prompt then needs an answer to compare with. For the estimator `sampled`."""

    clip_log_ratio: PositiveFloat | None = None
    """T - B of each token is clipped to this size (nats): A = lambda*clip(T-B) - (S-B). For lambda other than
    0 and 1, which read one of the two alone, and for the estimator `sampled`; by default nothing is
    clipped."""

    largest_log_ratio: PositiveFloat = 100.0
    """Guard: |T - B| of a sampled token above this, or a number that is not finite, ends the run with domain
    and token (natural logs)."""

    largest_start_difference: PositiveFloat = 0.2
    """Guard: before the first update the student is the reference, so trainer and scorer must read the same
    log-probabilities. A mean |S - B| above this in step 1 (nats a token) ends the run: tokens are misaligned,
    or the reference is another model. Where a domain's reference is first read in a later step N (after a
    warm-up of lambda), N times this is allowed. Not checked where it is never read (lambda 1). With another
    `training.start`, |S - B| is compared with that of start and reference, measured before the training."""

    alarms: Alarms = Alarms()
    """Guards on the student's answers while it trains."""

    def check_advantages(self, overrides: Mapping[str, DomainObjective], samples_per_prompt: int) -> None:
        """Refuses what acts on the advantages of sampled tokens where there are none, or no group.

        `overrides` are those of the domains. Raises ValueError.
        """
        acting = {"objective.verifiable": self.verifiable.kind}
        for name, own in overrides.items():
            if own.verifiable is not None:
                acting[f"domains.{name}.objective.verifiable"] = own.verifiable.kind
        acting = {place: kind for place, kind in acting.items() if kind != "none"}
        adding = [place for place, kind in acting.items() if kind == "add"]
        if self.clip_log_ratio is not None:
            acting["objective.clip_log_ratio"] = f"{self.clip_log_ratio:g}"
        if acting and self.estimator.compares_distributions:
            place, value = next(iter(acting.items()))
            raise ValueError(
                f"{place}: {value} changes the advantages of sampled tokens, and objective.estimator: "
                f"{self.estimator.kind} has none; use estimator: sampled, or leave it out"
            )
        if adding and samples_per_prompt == 1:
            raise ValueError(
                f"{adding[0]}: add compares the answers to one prompt, and training.samples_per_prompt is 1; "
                "give at least 2, or use gate or none"
            )


class Probe(Strict):
    """What `protege probe` and `reward_scale: auto` ask the objective's known optimum. At each lambda it
    answers each prompt by both of the evaluation's decodings: sampled at `evaluation.temperature`, and
    greedy."""

    reward_scales: Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(min_length=1)] = (
        0.0, 0.5, 1.0, 1.25, 1.5, 2.0,
    )  # fmt: skip
    """Lambdas that are tried; `auto` tries 1.25 in any case."""
    prompts: PositiveInt = 100
    """Prompts of each domain: of its `validation`, else of its training prompts."""
    samples_per_prompt: PositiveInt = 4
    """Sampled answers to each prompt at each lambda, beside the greedy one."""
