"""Every declared thing of a merge, as strict and frozen pydantic models.

The class defaults are the vetted settings (the paper's, arXiv 2602.12125, where it has one). This
package imports no torch, so a config is parsed and refused before anything heavy loads.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from configs.baselines import (
    AverageBaseline,
    Baselines,
    DistilledBaseline,
    GrpoBaseline,
    ModelBaseline,
    OpdBaseline,
    OracleBaseline,
    TrainedBaseline,
    WeightBaseline,
)
from configs.benchmarks import PROGRAM_FILES, NamedBenchmark
from configs.experts import Expert, ModelExpert, RegisteredExpert, RLExpert
from configs.mixing import BALANCED, Mixing, WeightedMixing
from configs.objective import AUTO, DomainObjective, ModelReference, Objective, Probe, TeacherBaseReference
from configs.overlap import OverlapCheck
from configs.prompts import Prompts
from configs.rewards import Reward
from configs.routing import LabelRouting, Routing
from configs.strict import Name, Strict, Url

RESERVED_NAMES = ("student", "reference")
"""Names that models of other roles have where domains name the teachers."""


class Domain(Strict):
    """One domain: its expert, its prompts, how answers are judged, where it is benchmarked."""

    expert: Expert
    """Who teaches this domain."""
    prompts: Prompts | None = None
    """The domain's training prompts; may be omitted if the top-level `prompts` hold rows labelled
    with this domain."""
    reward: Reward
    """How an answer is judged while the expert is trained: `math`, `code`, `exact`, `number`, or a block."""
    benchmarks: tuple[NamedBenchmark, ...] = ()
    """Where base, teachers, student and baselines are compared."""
    validation: Prompts | None = None
    """Prompts with answers that nothing trains on, for `protege probe` and `reward_scale: auto`; by default
    they take training prompts."""
    objective: DomainObjective | None = None
    """Overrides of the global objective."""


class Training(Strict):
    """The merge: on-policy distillation of the base student."""

    steps: PositiveInt = 50
    """Optimizer steps."""
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
    save_every: PositiveInt = 10
    """Steps between checkpoints; a stopped merge continues from the last one."""
    seed: int = 42
    """Seed of prompt order and sampling."""


class Scorer(Strict):
    """Who reads teacher's and reference's log-probabilities: two passes a rollout, one engine."""

    kind: Literal["shared", "pool"] = "shared"
    """`shared`: one process holds the reference and every teacher; `pool`: verl's own servers, one
    vLLM engine (and one GPU or more) for each."""
    tokens_per_batch: PositiveInt = 16384
    """Most tokens that the shared scorer runs through a model at once."""
    canary: bool = True
    """The shared scorer reads 16 fixed tokens with each model at load and after every swap of weights; a
    difference ends the run. `pool` swaps no weights and does not read this."""


class Hardware(Strict):
    """Where the run happens."""

    device: Literal["cpu", "cuda"] = "cuda"
    """`cpu` runs the same trainer on logical devices."""
    gpus: PositiveInt = 1
    """Devices a node for training and rollout (data-parallel ranks on a CPU)."""
    nodes: PositiveInt = 1
    """Nodes; above 1 `ray_address` must name a running Ray cluster."""
    ray_address: str | None = None
    """Address of a running Ray cluster; by default one is started on this machine and ended with the run."""
    scorer_gpus: PositiveInt = 1
    """Devices of each teacher's server in the `pool` scorer."""
    rollout_memory_fraction: Annotated[float, Field(gt=0, le=0.95)] = 0.5
    """Share of a GPU's memory that vLLM may take; on a CPU the cache holds just what a step needs."""
    rollout_tensor_parallel: PositiveInt = 1
    """Devices that share one rollout engine."""
    tokens_per_device: PositiveInt = 32768
    """Most tokens in one micro-batch of the update, on one device."""


class Evaluation(Strict):
    """How models are compared; the same for every model."""

    samples_per_problem: PositiveInt = 32
    """Sampled answers to each problem."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Sampling temperature."""
    greedy: bool = True
    """Also one greedy answer to each problem."""
    max_response_tokens: PositiveInt | None = None
    """Answer length limit; by default that of `training`."""
    seed: int = 42
    """Seed of the sampled answers."""
    harness: Literal["warn", "stop"] = "warn"
    """What a grader does to the run that accepts less than 99% of its benchmark's own solutions."""


class MergeConfig(Strict):
    """One merge, as the user declares it."""

    name: Name
    """Name of the run; its folder is `runs/<name>` unless `--run-dir` says otherwise."""
    student: str
    """The base student, where training starts and the reference: a model folder or hub name."""
    domains: Annotated[dict[Name, Domain], Field(min_length=1)]
    """The domains by name, one teacher each."""
    prompts: Prompts | None = None
    """Prompts of several domains in one source, each labelled (see `routing`)."""
    chat_template: dict[str, bool | int | float | str] = Field({})
    """Arguments of the student's chat template, such as `{enable_thinking: false}` for Qwen3."""
    routing: Routing = LabelRouting()
    """How a prompt finds its teacher, by name or as a block."""
    mixing: Mixing = BALANCED
    """How much of every step each domain has, and in which order its prompts come, by name or as a block."""
    conflicts: Literal["refuse", "drop", "keep"] = "refuse"
    """The same prompt in two domains, which two teachers would score: nothing starts, or all such rows are
    left out, or each teacher scores its own row."""
    overlap: OverlapCheck = OverlapCheck()
    """What is done about training prompts that repeat a benchmark's problem."""
    objective: Objective = Objective()
    """What is maximised."""
    probe: Probe = Probe()
    """How lambda is probed, by `protege probe` and for `objective.reward_scale: auto`."""
    training: Training = Training()
    """How the student is trained."""
    scorer: Scorer = Scorer()
    """Who scores the rollouts."""
    hardware: Hardware = Hardware()
    """Where."""
    evaluation: Evaluation = Evaluation()
    """How models are compared."""
    baselines: Baselines = (AverageBaseline(kind="average"),)
    """What else is compared, by name (`opd`, `interpolation`, `sft`, `grpo`, `average`, `task_arithmetic`,
    `ties`, `dare`, `extrapolation`, `oracle`) or as a block, each kind once."""
    tracking: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Where the metrics of every training also go, as verl names them: `tensorboard` to the run's folder
    `tensorboard`, `wandb` to its folder `wandb` (offline, unless `WANDB_MODE` is set)."""
    registry: Annotated[Url | Path, Field(union_mode="left_to_right")] | None = None
    """Where experts are kept: a folder, or a URL that fsspec knows, such as `s3://bucket/experts`; by default
    `$PROTEGE_HOME` or `~/.protege`."""

    @model_validator(mode="after")
    def _domain_names_are_free(self) -> MergeConfig:
        taken = [name for name in self.domains if name in RESERVED_NAMES]
        if taken:
            raise ValueError(
                f"domain {taken[0]!r}: this name stands for the {taken[0]} model; choose another name"
            )
        return self

    @model_validator(mode="after")
    def _every_domain_has_prompts(self) -> MergeConfig:
        bare = [name for name, domain in self.domains.items() if domain.prompts is None]
        if bare and self.prompts is None:
            raise ValueError(
                f"domain {bare[0]!r} has no prompts: give domains.{bare[0]}.prompts, "
                "or a labelled top-level `prompts`"
            )
        return self

    @model_validator(mode="after")
    def _labels_name_domains(self) -> MergeConfig:
        sources = {"prompts": self.prompts}
        sources |= {f"domains.{name}.prompts": domain.prompts for name, domain in self.domains.items()}
        sources |= {f"domains.{name}.validation": domain.validation for name, domain in self.domains.items()}
        for place, source in sources.items():
            for value, domain in source.labels.items() if source else ():
                if domain not in self.domains:
                    raise ValueError(
                        f"{place}.labels: {value!r} is mapped to {domain!r}, which is no domain; valid: "
                        f"{', '.join(self.domains)}"
                    )
        return self

    @model_validator(mode="after")
    def _routing_names_domains(self) -> MergeConfig:
        for place, domain in self.routing.named_domains():
            if domain not in self.domains:
                raise ValueError(
                    f"routing.{place}: {domain!r} is no domain; valid: {', '.join(self.domains)}"
                )
        return self

    @model_validator(mode="after")
    def _weights_name_every_domain(self) -> MergeConfig:
        if isinstance(self.mixing, WeightedMixing):
            strange = [name for name in self.mixing.weights if name not in self.domains]
            absent = [name for name in self.domains if name not in self.mixing.weights]
            if strange or absent:
                what = f"{strange[0]!r} is no domain" if strange else f"domain {absent[0]!r} has no weight"
                raise ValueError(f"mixing.weights: {what}; name each of: {', '.join(self.domains)}")
        return self

    @model_validator(mode="after")
    def _benchmark_names_are_unique(self) -> MergeConfig:
        seen: dict[str, str] = {}
        for domain_name, domain in self.domains.items():
            for benchmark in domain.benchmarks:
                if benchmark.name in seen:
                    raise ValueError(
                        f"benchmark {benchmark.name!r} is declared by domains {seen[benchmark.name]!r} and "
                        f"{domain_name!r}: names must be unique"
                    )
                seen[benchmark.name] = domain_name
        for name, added in itertools.product(seen, PROGRAM_FILES.values()):
            if name + added in seen:
                raise ValueError(
                    f"benchmark {name + added!r}: its samples would have the file name of the programs of "
                    f"{name!r}; choose another name"
                )
        return self

    @model_validator(mode="after")
    def _distributions_need_the_shared_scorer(self) -> MergeConfig:
        if self.objective.estimator.kind != "sampled" and self.scorer.kind != "shared":
            raise ValueError(
                f"objective.estimator: {self.objective.estimator.kind} compares whole distributions, which "
                "scorer.kind: shared can; verl's pool returns the sampled token only (estimator: sampled)"
            )
        return self

    @model_validator(mode="after")
    def _several_nodes_need_a_cluster(self) -> MergeConfig:
        if self.hardware.nodes > 1 and self.hardware.ray_address is None:
            raise ValueError(
                "hardware.nodes is above 1: hardware.ray_address must name a running Ray cluster"
            )
        return self

    @model_validator(mode="after")
    def _bases_are_given_where_they_are_read(self) -> MergeConfig:
        wanted = self.objective.reference.kind == "teacher_base"
        for name, domain in self.domains.items():
            if not isinstance(domain.expert, ModelExpert | RegisteredExpert):
                continue
            place, base = f"domains.{name}.expert.base", domain.expert.base
            if wanted and base is None and isinstance(domain.expert, ModelExpert):
                raise ValueError(
                    f"objective.reference: teacher_base needs {place}, what this expert was before its RL"
                )
            if base is not None and not wanted:
                raise ValueError(f"{place} is read with objective.reference: teacher_base only; leave it out")
        return self

    @model_validator(mode="after")
    def _grpo_takes_whole_prompts(self) -> MergeConfig:
        for baseline in self.baselines:
            if isinstance(baseline, GrpoBaseline):
                self.grpo_prompts_per_step(baseline)
        return self

    def reference_of(self, domain: str) -> str:
        """The model whose log-probability B is for this domain's prompts."""
        reference, expert = self.objective.reference, self.domains[domain].expert
        if isinstance(reference, ModelReference):
            return reference.path
        if isinstance(reference, TeacherBaseReference) and isinstance(expert, ModelExpert | RLExpert):
            return expert.base or self.student
        return self.student

    def reward_scale_of(self, domain: str) -> float | None:
        """Lambda that holds for this domain's prompts once warmed up; None for an `auto` not yet chosen."""
        override = self.domains[domain].objective
        own = None if override is None else override.reward_scale
        declared = self.objective.reward_scale if own is None else own
        return None if declared == AUTO else declared

    def with_reward_scales(self, chosen: Mapping[str, float]) -> MergeConfig:
        """The same with these lambdas in place of `auto`, by domain."""
        domains = dict(self.domains)
        for name, scale in chosen.items():
            objective = domains[name].objective or DomainObjective()
            own = objective.model_copy(update={"reward_scale": scale})
            domains[name] = domains[name].model_copy(update={"objective": own})
        return self.model_copy(update={"domains": domains})

    def reward_scale_at(self, domain: str, step: int) -> float:
        """Lambda of this domain's prompts in a step (counted from 1)."""
        warmup = self.objective.reward_scale_warmup_steps
        share = min(1.0, (step - 1) / warmup) if warmup else 1.0
        return 1.0 + share * (self.reward_scale_of(domain) - 1.0)

    def loss_weight_of(self, domain: str) -> float:
        """Factor of this domain's token losses."""
        override = self.domains[domain].objective
        return 1.0 if override is None else override.weight

    def trains_opd(self) -> bool:
        """Whether the baseline `opd` is trained."""
        return any(isinstance(baseline, OpdBaseline) for baseline in self.baselines)

    def compares_oracle(self) -> bool:
        """Whether the routed oracle is shown."""
        return any(isinstance(baseline, OracleBaseline) for baseline in self.baselines)

    def model_baselines(self) -> tuple[ModelBaseline, ...]:
        """The baselines that are a model of their own, in the order of the config."""
        return tuple(baseline for baseline in self.baselines if isinstance(baseline, ModelBaseline))

    def distilled_baselines(self) -> tuple[DistilledBaseline, ...]:
        """The baselines that are the merge's training at another lambda."""
        return tuple(baseline for baseline in self.baselines if isinstance(baseline, DistilledBaseline))

    def trained_baselines(self) -> tuple[TrainedBaseline, ...]:
        """The baselines that are trained as the merge is."""
        return tuple(baseline for baseline in self.baselines if isinstance(baseline, TrainedBaseline))

    def grpo_prompts_per_step(self, baseline: GrpoBaseline) -> int:
        """Prompts, over all domains, that make as many rollouts as the merge's step; raises ValueError."""
        rollouts = self.training.prompts_per_step * self.training.samples_per_prompt
        return baseline.prompts_per_step(rollouts, len(self.domains))

    def weight_baselines(self) -> tuple[WeightBaseline, ...]:
        """The baselines that are computed from the experts' weights."""
        return tuple(baseline for baseline in self.baselines if isinstance(baseline, WeightBaseline))

    def evaluation_tokens(self) -> int:
        """Answer length limit of the evaluation, in tokens."""
        return self.evaluation.max_response_tokens or self.training.max_response_tokens
