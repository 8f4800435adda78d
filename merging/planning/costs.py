"""Seconds, device-hours and price of each stage: from what was measured, else by arithmetic."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from configs.schema import MergeConfig
from merging.baselines.kinds import TRAINED
from merging.checks.found import Preflight
from merging.exopd.lambda_schedule import LambdaSchedule, models_read
from merging.exopd.names import references
from merging.exopd.pool import widest_pool
from merging.expert_kinds.kind import ExpertKind
from merging.expert_kinds.kinds import experts_of
from merging.planning.devices import Device
from merging.planning.engines import evaluation_engines, training_engines
from merging.planning.lengths import RANGE, Expected, expected
from merging.planning.measured import Experts, Value, seconds_per_step, seconds_per_validation
from merging.planning.memory import (
    CHECKPOINT_BYTES,
    scored_models,
    scorer_replicas,
    size_of,
    student_adapter,
)
from merging.planning.seconds import (
    DISK_BYTES_PER_SECOND,
    VALIDATION,
    Engines,
    Lengths,
    Step,
    decode_seconds,
    step_seconds,
    weights_seconds,
)
from merging.planning.stages import validation_rollouts
from merging.state.planned import PlannedStage
from merging.state.polished import controls, polish_tokens
from merging.training.alarms import schedule_of
from teachers.models.fingerprint import ModelFingerprint
from trainer.memory import ModelSize
from trainer.validation import due_steps

REPORT_SECONDS = 10.0
"""What is left of the quickstart's 836 s without its measured stages (docs/LOG.md)."""

PROBED_ROWS = 128
"""Answers that the probe decodes together (`teachers.scoring.mixture.MixtureDecoder`)."""

Parts = dict[str, float]


@dataclass(frozen=True)
class Costs:
    """What the stages of a run cost. `config` is resolved, with a lambda for every domain."""

    config: MergeConfig
    found: Preflight
    run_dir: Path
    device: Device
    prompts: Mapping[str, float]
    """Mean tokens of a domain's prompts."""
    shares: Mapping[str, float]
    """Of each domain in a step."""
    experts: Callable[[str], Experts]
    """Experts on this registry that were built from weights of this digest."""
    replicas: int
    """Processes of the shared scorer."""
    polished: Mapping[str, int]
    """Rows of each domain in the polish; empty without one."""
    own_length: Value | None = None
    """Mean tokens of an answer in the merge's steps so far."""
    answer_factor: float = 1.0
    """Of assumed lengths."""

    @property
    def experts_declared(self) -> dict[str, ExpertKind]:
        """The expert of each domain, without its prompts."""
        return experts_of(self.config)

    # ---------------------------------------------------------------------------------- any stage

    def of(self, stage: PlannedStage) -> PlannedStage:
        """The stage with its seconds, and what they rest on."""
        if not stage.is_left:
            return stage
        try:
            parts, seconds = self._arithmetic(stage)
        except ValueError as error:
            stage, seconds = replace(stage, source=str(error)), None
        else:
            spread = self._spread(stage)
            stage = replace(stage, step_seconds=parts, seconds_range=spread, source="arithmetic")
        measured = self._measured(stage)
        if measured is not None:
            return replace(
                stage, seconds=measured.value, basis="measured", source=measured.source, seconds_range=None
            )
        return stage if seconds is None else replace(stage, seconds=seconds, basis="estimated")

    def _spread(self, stage: PlannedStage) -> tuple[float, float] | None:
        """Seconds at both ends of the range of assumed lengths; None where no length is assumed."""
        low, high = (replace(self, answer_factor=factor)._arithmetic(stage)[1] for factor in RANGE)
        return None if low == high else (low, high)

    def _measured(self, stage: PlannedStage) -> Value | None:
        """Seconds of a training by its own earlier steps, the merge's, or those of experts of its base."""
        if not stage.steps:
            return None
        kind, _, subject = stage.name.partition(" ")
        base = self.found.fingerprints["student"]
        if kind in ("expert", "teacher_more"):
            base = self._expert(subject).shaped_like(self.found.fingerprints)[1]
        if kind != "expert":
            # the other trainings have the merge's rollouts in each step
            others = () if kind in ("polish", "teacher_more") else (self.run_dir / "train",)
            for work in dict.fromkeys((self.work(stage), *others)):
                if (step := seconds_per_step(work)) is not None:
                    seconds = step.value * stage.steps + self._validating(stage, work)
                    return Value(round(seconds, 1), step.source)
        each = self.experts(base.weights_sha256).seconds_per_rollout()
        return None if each is None else Value(round(each.value * stage.rollouts, 1), each.source)

    def _validating(self, stage: PlannedStage, work: Path) -> float:
        """Seconds of the validations that are left: as measured in this folder, else by arithmetic."""
        if not stage.validations:
            return 0.0
        each = seconds_per_validation(work)
        return (
            stage.step_seconds.get(VALIDATION, 0.0) * stage.steps
            if each is None
            else stage.validations * each
        )

    def work(self, stage: PlannedStage) -> Path:
        """Folder of a training's metrics."""
        kind, _, subject = stage.name.partition(" ")
        return self.run_dir / {"merge": "train", "baseline": subject}.get(kind, stage.name.replace(" ", "/"))

    def _arithmetic(self, stage: PlannedStage) -> tuple[Parts, float]:
        """Seconds of a step by part, and of the stage; raises ValueError for what is not modelled."""
        kind, _, subject = stage.name.partition(" ")
        if kind == "expert":
            return self._training(stage, self._expert_step(self._expert(subject)))
        if kind == "merge":
            schedule, training = schedule_of(self.config, self.work(stage)), self.config.training
            return self._training(stage, self._merge_step(schedule, training.steps, training.validate_every))
        if kind in ("polish", "teacher_more"):
            return self._training(stage, self._judged_step(subject))
        if kind == "baseline" and subject in TRAINED:
            return self._trained_baseline(stage, subject)
        alone = {
            "start": self._weights,
            "baseline": self._weights,
            "probe": self._probe,
            "evaluation": self._evaluation,
        }
        return {}, round(alone[kind](), 1) if kind in alone else REPORT_SECONDS

    # ---------------------------------------------------------------------------------- trainings

    def _training(self, stage: PlannedStage, step: Step, before: float = 0.0) -> tuple[Parts, float]:
        """A training's steps, its start, and what comes before both."""
        parts = {name: round(value, 3) for name, value in step_seconds(step, self.device).items()}
        validating = 0.0
        if stage.validations and step.engines is not None:
            answers = validation_rollouts(self.config, self.found)
            validating = stage.validations * decode_seconds(step.model, answers, step.lengths, step.engines)
        seconds = self.device.start_seconds + stage.steps * sum(parts.values()) + validating + before
        if validating and stage.steps:
            parts[VALIDATION] = round(validating / stage.steps, 3)
        return parts, round(seconds, 1)

    def _merge_step(
        self, schedule: LambdaSchedule | None, steps: int, validate_every: int | None = None
    ) -> Step:
        """Of the merge, or of a training with its rollouts that takes so many steps."""
        training, size = self.config.training, self._size("student")
        hardware, adapter = self.config.hardware, student_adapter(self.config, self.found.fingerprints)
        has_servers = self.config.scorer.kind == "pool"
        rollouts = training.prompts_per_step * training.samples_per_prompt
        return Step(
            model=size,
            rollouts=rollouts,
            lengths=self._lengths(training.max_response_tokens).lengths,
            devices=hardware.gpus * hardware.nodes,
            engines=training_engines(self.config, self.device, size, rollouts),
            scored=self._scored(schedule) if schedule else (),
            scoring_devices=self._server_width() if has_servers else self.replicas,
            has_servers=has_servers,
            reads_again=schedule is None or not self.config.objective.estimator.compares_distributions,
            is_adapter=adapter is not None,
            checkpoint_bytes=self._checkpoint_bytes(
                size.parameters if adapter is None else adapter, steps, training.save_every, validate_every
            ),
        )

    def _server_width(self) -> int:
        """Devices that read one model at a time, where each has servers of its own: those of the scarcest."""
        return min((own.devices for own in widest_pool(self.config).servers.values()), default=1)

    def _scored(self, schedule: LambdaSchedule) -> list[tuple[ModelSize, float]]:
        """Models that a settled step reads, each with its share of the rollouts."""
        shares: dict[str, float] = defaultdict(float)
        sizes: dict[str, ModelSize] = {}
        names, read = references(self.config)[0], self._read()
        for domain, scale in schedule.settled().items():
            teacher = (f"teacher of {domain}", read.get(domain))
            reference = (f"reference {names[domain]}", read.get(f"reference of {domain}"))
            for name, model in models_read(scale, teacher, reference):
                if model is None:
                    continue  # a server of the user's reads it
                shares[name] += self.shares.get(domain, 1 / len(self.config.domains))
                sizes[name] = size_of(model)
        return [(sizes[name], share) for name, share in shares.items()]

    def _read(self) -> dict[str, ModelFingerprint]:
        return scored_models(self.config, self.found.fingerprints)

    def _expert_step(self, expert: ExpertKind) -> Step:
        model = expert.shaped_like(self.found.fingerprints)[1]
        size, trained = size_of(model), expert.adapter_parameters(self.found.fingerprints)
        hardware, rollouts = self.config.hardware, expert.rollouts_per_step or 0
        limit = expert.response_tokens or self.config.training.max_response_tokens
        return Step(
            model=size,
            rollouts=rollouts,
            lengths=self._lengths(limit, (expert.domain,), model).lengths,
            devices=hardware.gpus * hardware.nodes,
            engines=training_engines(self.config, self.device, size, rollouts),
            is_adapter=trained is not None,
            checkpoint_bytes=self._checkpoint_bytes(
                size.parameters if trained is None else trained, expert.block.steps, expert.block.save_every
            ),
        )

    def _judged_step(self, domain: str) -> Step:
        """Of the polish, or of its control for a domain."""
        config, polish, models = self.config, self.config.polish, self.found.fingerprints
        assert polish is not None, "such stages are planned for one only"
        steps, size, answers = polish.steps, polish.prompts_per_step, polish_tokens(config, polish)
        model, domains, adapter = models["student"], tuple(self.polished), student_adapter(config, models)
        for control in controls(config, self.polished) if domain else ():
            if control.domain == domain:
                steps, size, answers = control.steps, control.prompts_per_step, control.response_tokens
                expert, domains = self._expert(domain), (domain,)
                model = expert.shaped_like(models)[1]
                adapter = None if adapter is None else expert.adapter_parameters(models)
        rollouts, hardware = size * polish.samples_per_prompt, config.hardware
        return Step(
            model=size_of(model),
            rollouts=rollouts,
            lengths=self._lengths(answers, domains, model).lengths,
            devices=hardware.gpus * hardware.nodes,
            engines=training_engines(config, self.device, size_of(model), rollouts),
            is_adapter=adapter is not None,
            checkpoint_bytes=self._checkpoint_bytes(
                model.parameters if adapter is None else adapter, steps, polish.save_every
            ),
        )

    def _trained_baseline(self, stage: PlannedStage, kind: str) -> tuple[Parts, float]:
        """The merge's training at another lambda or going on, without teachers, or on their answers."""
        baseline = next(one for one in self.config.trained_baselines() if one.kind == kind)
        schedule = TRAINED[kind].schedule(baseline, self.config, self.run_dir)
        is_distilled = baseline in self.config.distilled_baselines()
        validate_every = self.config.training.validate_every if is_distilled else None
        step = self._merge_step(schedule, TRAINED[kind].steps(self.config), validate_every)
        if kind != "sft":
            return self._training(stage, step)
        answers = self._teachers_answers(stage.rollouts)
        return self._training(stage, replace(step, engines=None, reads_again=False), answers)

    def _teachers_answers(self, rollouts: int) -> float:
        training, seconds = self.config.training, self.device.engine_seconds
        for domain, expert in self.experts_declared.items():
            size = size_of(expert.shaped_like(self.found.fingerprints)[1])
            share = self.shares.get(domain, 1 / len(self.config.domains))
            lengths = self._lengths(training.max_response_tokens, (domain,)).lengths
            seconds += self._answered(size, round(rollouts * share), lengths)
        return seconds

    def _checkpoint_bytes(
        self, parameters: int, steps: int, save_every: int, validate_every: int | None = None
    ) -> float:
        """Per step: full ones every so many steps, at validations and at the end, or weights at the end."""
        if self.config.hardware.checkpoints == "weights":
            return 4 * parameters / steps
        saved = {*range(save_every, steps, save_every), steps}
        validated = due_steps(validate_every, steps)[1:] if validate_every else []
        return CHECKPOINT_BYTES * parameters * len(saved.union(validated)) / steps

    # ----------------------------------------------------------------------------- without training

    def _weights(self) -> float:
        return weights_seconds(self.found.fingerprints["student"].parameters, len(self.config.domains))

    def _probe(self) -> float:
        """Teacher and reference decode side by side in the command's process, on one device."""
        probe, seconds = self.config.probe, self.device.engine_seconds
        automatic = [name for name in self.config.domains if self._is_automatic(name)]
        for domain in automatic:
            lengths = self._lengths(self.config.evaluation_tokens(), (domain,)).lengths
            # sampled answers, then a greedy one to each prompt
            numbers = (probe.prompts * probe.samples_per_prompt, probe.prompts)
            batches = sum(-(-number // PROBED_ROWS) for number in numbers)
            steps = batches * lengths.longest_of(PROBED_ROWS)
            models = (self._read()[name] for name in (domain, f"reference of {domain}"))
            one = sum(self._probed_step(size_of(model)) for model in models)
            seconds += len({*probe.reward_scales, 1.25}) * steps * one
        return seconds

    def _is_automatic(self, domain: str) -> bool:
        return self.found.config.reward_scale_of(domain) is None

    def _probed_step(self, size: ModelSize) -> float:
        engine = Engines(self.device, 1, 1, PROBED_ROWS)
        return size.parameters * self.device.number_bytes / engine.bandwidth + self.device.eager_seconds

    def _evaluation(self) -> float:
        """Every model on every benchmark, one after the other on all devices."""
        problems = Counter(problem.benchmark for problem in self.found.asked)
        seconds = self.device.engine_seconds if problems else 0.0
        for size in self._evaluated() if problems else ():
            seconds += size.parameters * self.device.number_bytes / DISK_BYTES_PER_SECOND
            seconds += sum(self._benchmark(size, name, count) for name, count in problems.items())
        for control in controls(self.config, self.polished) if problems else ():
            size = size_of(self._expert(control.domain).shaped_like(self.found.fingerprints)[1])
            own = [benchmark.name for benchmark in self.config.domains[control.domain].benchmarks]
            seconds += sum(self._benchmark(size, name, problems[name]) for name in own)
        return seconds

    def _benchmark(self, size: ModelSize, name: str, problems: int) -> float:
        declared = {
            benchmark.name: (domain, benchmark)
            for domain, block in self.config.domains.items()
            for benchmark in block.benchmarks
        }
        domain, benchmark = declared[name]
        settings = self.config.evaluation
        lengths = self._lengths(self.config.evaluation_tokens(), (domain,)).lengths
        sampled = problems * (benchmark.samples_per_problem or settings.samples_per_problem)
        return self._answered(size, sampled, lengths) + (
            self._answered(size, problems, lengths) if settings.greedy else 0.0
        )

    def _evaluated(self) -> list[ModelSize]:
        """Base, teachers, student, and each baseline that is a model."""
        experts = self.experts_declared.values()
        teachers = [size_of(expert.shaped_like(self.found.fingerprints)[1]) for expert in experts]
        own = [self._size("student")] * (2 + self.config.further_models())
        return [*own, *teachers]

    def _answered(self, size: ModelSize, answers: int, lengths: Lengths) -> float:
        return decode_seconds(size, answers, lengths, evaluation_engines(self.config, self.device, size))

    # ------------------------------------------------------------------------------------- lengths

    def _lengths(
        self, limit: int, domains: tuple[str, ...] = (), base: ModelFingerprint | None = None
    ) -> Expected:
        """Of prompts and answers of these domains (all of them by default) under a limit."""
        domains = domains or tuple(self.config.domains)
        prompt = sum(self.prompts[name] for name in domains) / len(domains)
        experts = self.experts((base or self.found.fingerprints["student"]).weights_sha256)
        measured = [self.own_length or experts.answer_length(name) for name in domains]
        found = expected(prompt, limit, measured)
        return found if found.is_measured else found.scaled(self.answer_factor)

    def merge_lengths(self) -> Expected:
        """Those of the merge's rollouts, for the plan's assumptions."""
        return self._lengths(self.config.training.max_response_tokens)

    def _size(self, key: str) -> ModelSize:
        return size_of(self.found.fingerprints[key])

    def _expert(self, domain: str) -> ExpertKind:
        return self.experts_declared[domain]


def total_devices(config: MergeConfig) -> int:
    """Devices that the run keeps: those of training and rollout, and on GPUs the pool's servers'."""
    hardware = config.hardware
    training = hardware.gpus * hardware.nodes + hardware.rollout_gpus
    if config.scorer.kind == "shared" or hardware.device == "cpu":
        return training
    return training + widest_pool(config).devices


def replicas_of(config: MergeConfig) -> int:
    """Devices over which the work of the shared or the sharded scorer is spread."""
    if config.scorer.kind == "sharded":
        return config.hardware.gpus * config.hardware.nodes
    return max(1, scorer_replicas(config))
