"""How the student is trained, from which weights on, and what is measured meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, model_validator

from configs.blocks.baselines import WeightBaseline
from configs.blocks.strict import Seed, Strict, by_kind


class StudentStart(Strict):
    """The base student."""

    kind: Literal["student"]


class ModelStart(Strict):
    """Another model of the student's shape, with its tokenizer."""

    kind: Literal["model"]
    path: str
    """Model folder or hub name."""


Start = Annotated[StudentStart | ModelStart | WeightBaseline, Field(discriminator="kind")]

StartName = Literal["student", "average", "task_arithmetic", "ties", "dare", "extrapolation"]

NamedStart = Annotated[Start, BeforeValidator(by_kind, json_schema_input_type=StartName | Start)]
"""A block, or its kind alone for one that needs no options."""


class Training(Strict):
    """The merge: on-policy distillation of the student."""

    steps: PositiveInt = 50
    """Optimizer steps."""
    start: NamedStart = StudentStart(kind="student")
    """Whose weights the student begins with, by name (`student`, or a merge of the experts' weights:
    `average`, `task_arithmetic`, `ties`, `dare`, `extrapolation`) or as a block: of the merge and of the
    baselines `opd` and `interpolation`. The reference stays what `objective.reference` says."""
    prompts_per_step: PositiveInt = 1024
    """Prompts in a step, over all domains."""
    samples_per_prompt: PositiveInt = 1
    """Rollouts of one prompt; at a fixed number of rollouts more prompts beat more samples."""
    learning_rate: PositiveFloat = 1e-5
    """AdamW's learning rate."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps over which the learning rate rises linearly to its value."""
    schedule: Literal["constant", "cosine"] = "constant"
    """What the learning rate does after the warm-up; `cosine` ends at zero with the last step."""
    max_prompt_tokens: PositiveInt = 2048
    """Length limit of a prompt, chat template included."""
    too_long: Literal["refuse", "drop"] = "refuse"
    """What happens to longer prompts: nothing starts, or they are left out, of the experts' training too."""
    max_response_tokens: PositiveInt = 16384
    """Rollout length limit."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW's weight decay."""
    gradient_clip: PositiveFloat = 1.0
    """Largest gradient norm."""
    loss_aggregation: Literal["seq-mean-token-mean", "token-mean", "seq-mean-token-sum"] = (
        "seq-mean-token-mean"
    )
    """How token losses become one number; the paper's is the mean over sequences of token means."""
    lora_rank: PositiveInt | None = None
    """Train the student as a LoRA adapter of this rank on all linear layers but the output layer, and export
    it as one; by default all weights are trained. Of the merge, its polish and every trained baseline."""
    lora_alpha: PositiveInt | None = None
    """The adapter's scale is `lora_alpha / lora_rank`; by default twice the rank."""
    full_model: bool = False
    """Also write a student that is an adapter as a full model, adapter and base added, to `student_full/` of
    the run's folder. May be asked for later too, of the same run."""
    overlap: Literal["none", "one_step"] = "none"
    """`one_step`: the next step's answers are sampled while the student is updated, by weights that are one
    update old (so is what the estimator `sampled` weighs by its importance weight). Of the merge and of the
    baselines `opd` and `interpolation`. On GPUs it needs `hardware.rollout_gpus`."""
    save_every: PositiveInt = 10
    """Steps between checkpoints; a stopped merge continues from the last one."""
    seed: Seed = 42
    """Seed of prompt order and sampling."""
    validate_every: PositiveInt | None = None
    """Steps between validations, by default none: the rollout engine answers each domain's `validation`
    prompts, and the domain's reward judges the answers, also before step 1 and after the last step. Of the
    merge and of the baselines `opd` and `interpolation`, as are the four options below."""
    validation_samples: PositiveInt = 4
    """Answers at temperature 1 to each validation prompt, beside one greedy answer."""
    validation_limit: PositiveInt = 200
    """Most validation prompts of a domain; of more, a sample by `seed`."""
    keep: Literal["last", "best"] = "last"
    """Which weights the student gets: those after the last step, or those of the validation with the highest
    accuracy (mean over domains, and of both decodings; of equal ones the earlier)."""
    patience: PositiveInt | None = None
    """So many validations in a row without a new highest accuracy end the training; by default none do."""

    @model_validator(mode="after")
    def _validation_is_asked_for(self) -> Training:
        defaults = type(self).model_fields
        if self.validate_every is None:
            for name in ("validation_samples", "validation_limit", "keep", "patience"):
                if (value := getattr(self, name)) != defaults[name].default:
                    raise ValueError(
                        f"training.{name}: {value} needs validations; set training.validate_every, the steps "
                        f"between them (1 to {self.steps}), or leave {name} out"
                    )
        elif self.validate_every > self.steps:
            raise ValueError(
                f"training.validate_every: {self.validate_every} is more than training.steps = {self.steps}; "
                f"valid: 1 to {self.steps}"
            )
        return self

    @model_validator(mode="after")
    def _an_adapter_is_asked_for(self) -> Training:
        if self.lora_rank is None:
            for name in ("lora_alpha", "full_model"):
                if value := getattr(self, name):
                    raise ValueError(
                        f"training.{name}: {str(value).lower()} needs a student that is trained as a LoRA "
                        f"adapter; set training.lora_rank, or leave {name} out"
                    )
        elif self.start.kind != "student":
            raise ValueError(
                f"training.lora_rank: {self.lora_rank} makes an adapter on the student's own weights, and "
                f"training.start: {self.start.kind} begins at others; valid with lora_rank: training.start: "
                "student"
            )
        return self

    @property
    def chooses_by_validation(self) -> bool:
        """Whether the student's weights depend on validations."""
        return self.keep == "best" or self.patience is not None

    def check_validation(self, validated: Sequence[str], checkpoints: str) -> None:
        """Raises ValueError for validations without a domain to validate, or without a checkpoint of the
        weights that each one judges. `validated` are the domains with `validation` prompts."""
        if self.validate_every is None:
            return
        if not validated:
            raise ValueError(
                "training.validate_every: no domain has validation prompts; give domains.<name>.validation "
                "(prompts with answers that nothing trains on), or leave validate_every out"
            )
        if checkpoints != "full":
            raise ValueError(
                "training.validate_every: every validation has a checkpoint of its step, and "
                f"hardware.checkpoints: {checkpoints} makes one after the last step alone; valid: "
                "hardware.checkpoints: full"
            )

    @property
    def merged_start(self) -> WeightBaseline | None:
        """How the experts' weights make the start; None where it is a model that exists."""
        return None if isinstance(self.start, StudentStart | ModelStart) else self.start


class Metrics(Strict):
    """What is measured while a model trains, beside what the training itself needs."""

    entropy: bool = True
    """Entropy of the next-token distribution at each step, of the merge, of trained baselines and of experts
    that are built; without it, metrics and report have none."""
