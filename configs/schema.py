"""Every declared thing of a merge, as strict and frozen pydantic models.

The class defaults are the vetted settings (the paper's, arXiv 2602.12125, where it has one). This
package imports no torch, so a config is parsed and refused before anything heavy loads.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from configs.blocks.baselines import AverageBaseline, Baselines, GrpoBaseline, SftBaseline, TrainedBaseline
from configs.blocks.benchmarks import PROGRAM_FILES, NamedBenchmark
from configs.blocks.experts import Expert, ModelExpert, RegisteredExpert, RLExpert, ServedExpert
from configs.blocks.hardware import Hardware
from configs.blocks.mixing import BALANCED, GapMixing, Mixing, WeightedMixing
from configs.blocks.objective import (
    AUTO,
    DomainObjective,
    ModelReference,
    Objective,
    Probe,
    ServedReference,
    TeacherBaseReference,
    Verifiable,
)
from configs.blocks.prompts import OverlapCheck, Prompts
from configs.blocks.rewards import Reward
from configs.blocks.routing import LabelRouting, Routing
from configs.blocks.strict import Name, PositiveInt, Seed, Strict, Url
from configs.declared_baselines import DeclaredBaselines
from configs.polish import Polish
from configs.prompt_mode import DeclaredMode, PromptMode, TemplateArguments
from configs.scorer import Scorer
from configs.served import REFERENCE, Endpoint, served_place
from configs.training import Metrics, ModelStart, StudentStart, Training
from configs.verl_settings import VerlSettings, dotted

RESERVED_NAMES = ("student", REFERENCE)
"""Names that models of other roles have where domains name the teachers."""


class Domain(DeclaredMode):
    """One domain: its expert, its prompts, how it is asked and judged, where it is benchmarked."""

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
    """Prompts with answers that nothing trains on: for `training.validate_every`, which leaves out domains
    without, and for `protege probe` and `reward_scale: auto`, which by default take training prompts."""
    objective: DomainObjective | None = None
    """Overrides of the global objective."""


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
    seed: Seed = 42
    """Seed of the sampled answers."""
    harness: Literal["warn", "stop"] = "warn"
    """What a grader does to the run that accepts less than 99% of its benchmark's own solutions."""
    margin: Annotated[float, Field(gt=0, le=100)] = 2.0
    """Difference in accuracy, in points, that does not matter: the student is level with a model if the 95%
    interval of their difference lies within it on both sides. It belongs to the merge: a run's folder refuses
    another one, so that it is chosen before the results are seen."""


class MergeConfig(Strict, DeclaredBaselines):
    """One merge, as the user declares it."""

    name: Name
    """Name of the run; its folder is `runs/<name>` unless `--run-dir` says otherwise."""
    student: str
    """The base student: a model folder or hub name. By default training starts at its weights, and it is the
    reference."""
    domains: Annotated[dict[Name, Domain], Field(min_length=1)]
    """The domains by name, one teacher each."""
    prompts: Prompts | None = None
    """Prompts of several domains in one source, each labelled (see `routing`)."""
    chat_template: TemplateArguments = Field(default={})
    """Arguments of the student's chat template, such as `{enable_thinking: false}` for Qwen3; a domain may
    lay its own over them. An argument that the template does not read is refused."""
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
    polish: Polish | None = None
    """A short reinforcement learning of the student after its distillation; by default there is none."""
    scorer: Scorer = Scorer()
    """Who scores the rollouts."""
    hardware: Hardware = Hardware()
    """Where."""
    verl: VerlSettings = Field({})
    """Further settings of verl's, by its own dotted keys, such as
    `{actor_rollout_ref.actor.optim.betas: [0.9, 0.95]}`: of the merge, the polish, experts that are built and
    every baseline that is trained but `sft`. Keys that Protege sets itself are refused."""
    metrics: Metrics = Metrics()
    """What is measured in training."""
    evaluation: Evaluation = Evaluation()
    """How models are compared."""
    baselines: Baselines = (AverageBaseline(kind="average"),)
    """What else is compared, by name (`opd`, `interpolation`, `sft`, `grpo`, `opd_more`, `average`,
    `task_arithmetic`, `ties`, `dare`, `extrapolation`, `oracle`, `teacher_more`) or as a block, each kind
    once."""
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
    def _the_scorer_can_read_the_models(self) -> MergeConfig:
        estimator, served = self.objective.estimator, self.served()
        self.scorer.check_models(list(self.domains), served)
        starts_elsewhere = not isinstance(self.training.start, StudentStart)
        self.scorer.check_read(starts_elsewhere or self.routing.kind == "agreement")
        if not estimator.compares_distributions or (self.scorer.kind == "shared" and not served):
            return self
        scorers = {"pool": "verl's pool", "sharded": "scorer.kind: sharded"}
        who = scorers.get(self.scorer.kind) or f"a server ({served_place(next(iter(served)))})"
        raise ValueError(
            f"objective.estimator: {estimator.kind} compares whole distributions, which scorer.kind: shared "
            f"can; {who} gives the sampled token only (estimator: sampled)"
        )

    @model_validator(mode="after")
    def _the_estimator_has_advantages(self) -> MergeConfig:
        overrides = {name: domain.objective for name, domain in self.domains.items() if domain.objective}
        self.objective.check_advantages(overrides, self.training.samples_per_prompt)
        return self

    @model_validator(mode="after")
    def _validations_have_prompts(self) -> MergeConfig:
        self.training.check_validation(self.validated(), self.hardware.checkpoints)
        if isinstance(self.mixing, GapMixing):
            every = self.training.validate_every
            self.mixing.check_validations(list(self.domains), self.validated(), every)
        return self

    @model_validator(mode="after")
    def _replicas_have_devices(self) -> MergeConfig:
        self.scorer.check_replicas(self.hardware)
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
            if not isinstance(domain.expert, ModelExpert | RegisteredExpert | ServedExpert):
                continue
            place, base = f"domains.{name}.expert.base", domain.expert.base
            if wanted and base is None and not isinstance(domain.expert, RegisteredExpert):
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

    @model_validator(mode="after")
    def _a_control_has_what_it_controls(self) -> MergeConfig:
        experts = {name: domain.expert for name, domain in self.domains.items()}
        self.check_controls(experts, self.training.lora_rank)
        return self

    def validated(self) -> list[str]:
        """The domains with validation prompts."""
        return [name for name, domain in self.domains.items() if domain.validation is not None]

    def prompt_modes(self) -> dict[str, PromptMode]:
        """How prompts of each domain are put to every model."""
        return {
            name: PromptMode({**self.chat_template, **domain.chat_template}, domain.system_prompt)
            for name, domain in self.domains.items()
        }

    def own_chat_templates(self) -> dict[str, TemplateArguments]:
        """All arguments of the chat template, of each domain that lays its own over the shared ones."""
        return {
            name: {**self.chat_template, **domain.chat_template}
            for name, domain in self.domains.items()
            if domain.chat_template
        }

    def reference_of(self, domain: str) -> str:
        """The model whose log-probability B is for this domain's prompts."""
        reference, expert = self.objective.reference, self.domains[domain].expert
        if isinstance(reference, ModelReference | ServedReference):
            return reference.path or self.student
        if isinstance(reference, TeacherBaseReference) and isinstance(
            expert, ModelExpert | RLExpert | ServedExpert
        ):
            return expert.base or self.student
        return self.student

    def served(self) -> dict[str, Endpoint]:
        """The models that a server reads, by the domain whose teacher they are, or `reference`."""
        experts = {name: domain.expert for name, domain in self.domains.items()}
        served: dict[str, Endpoint] = {
            name: expert for name, expert in experts.items() if isinstance(expert, ServedExpert)
        }
        reference = self.objective.reference
        return served | ({REFERENCE: reference} if isinstance(reference, ServedReference) else {})

    def reward_scale_of(self, domain: str) -> float | None:
        """Lambda that is declared for this domain's prompts; None for an `auto` not yet chosen."""
        override = self.domains[domain].objective
        own = None if override is None else override.reward_scale
        declared = self.objective.reward_scale if own is None else own
        return None if declared == AUTO else declared

    def with_experts(self, experts: Mapping[str, Expert]) -> MergeConfig:
        """The same with these experts, by domain."""
        domains = dict(self.domains)
        for name, expert in experts.items():
            domains[name] = domains[name].model_copy(update={"expert": expert})
        return self.model_copy(update={"domains": domains})

    def loss_weight_of(self, domain: str) -> float:
        """Factor of this domain's token losses."""
        override = self.domains[domain].objective
        return 1.0 if override is None else override.weight

    def verifiable_of(self, domain: str) -> Verifiable:
        """What the reward of this domain's answers does beside its teacher."""
        override = self.domains[domain].objective
        own = None if override is None else override.verifiable
        return self.objective.verifiable if own is None else own

    def starts_from(self, model: str) -> bool:
        """Whether training starts at the weights of this model, as `student` and `training.start` name it."""
        start = self.training.start
        if isinstance(start, ModelStart):
            return model == start.path
        return start.kind == "student" and model == self.student

    def verl_settings(self, part: Expert | TrainedBaseline | Polish | None = None) -> dict[str, Any]:
        """Further settings of verl's by dotted key: the merge's, under a part's own.

        `sft` is trained by another trainer of verl's, with other keys, and has its own only.
        """
        own = getattr(part, "verl", None)
        return dotted(own) if isinstance(part, SftBaseline) else dotted(self.verl, own)

    def grpo_prompts_per_step(self, baseline: GrpoBaseline) -> int:
        """Prompts, over all domains, that make as many rollouts as the merge's step; raises ValueError."""
        rollouts = self.training.prompts_per_step * self.training.samples_per_prompt
        return baseline.prompts_per_step(rollouts, len(self.domains))

    def step_sizes(self) -> dict[str, int]:
        """Prompts in a step of every training that mixes the domains' prompts, by what messages call them."""
        sizes = {"training.prompts_per_step": self.training.prompts_per_step}
        for baseline in self.baselines:
            if isinstance(baseline, GrpoBaseline):
                sizes["prompts of a step of baseline `grpo`"] = self.grpo_prompts_per_step(baseline)
        return sizes

    def evaluation_tokens(self) -> int:
        """Answer length limit of the evaluation, in tokens."""
        return self.evaluation.max_response_tokens or self.training.max_response_tokens
