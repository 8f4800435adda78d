"""`rl`: experts that are built here, by GRPO, once for every registry."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from common.progress import bar
from configs.blocks.experts import RLExpert
from merging.expert_kinds.kind import ExpertKind, Models, NamedModel, base_key
from merging.state.cluster import Cluster
from merging.state.measure import Measured
from merging.state.planned import PlannedStage, progress
from routing.judged import can_be_judged
from routing.routers.decisions import RoutedPrompt
from teachers.build import ExpertOrder, build_expert, find_expert, grpo_text
from teachers.models import adapters
from teachers.models.fingerprint import ModelFingerprint
from teachers.registry.local import ExpertRecord, Registry, expert_id
from trainer.run import last_checkpoint


@dataclass(frozen=True)
class BuiltExpert(ExpertKind):
    """GRPO from the student, or from a base of its own, on the labelled and the answered prompts."""

    block: RLExpert
    is_built: ClassVar[bool] = True

    @property
    def rollouts_per_step(self) -> int:
        return self.block.prompts_per_step * self.block.samples_per_prompt

    @property
    def response_tokens(self) -> int | None:
        return self.block.max_response_tokens

    def named_models(self) -> dict[str, NamedModel]:
        if self.block.base is None:
            return {}
        return {base_key(self.domain): NamedModel(f"{self.place}.base", self.block.base)}

    def shaped_like(self, models: Models) -> tuple[str, ModelFingerprint]:
        return f"{self.place}.base", models.get(base_key(self.domain), models["student"])

    def adapter_parameters(self, models: Models) -> int | None:
        rank = self.block.lora_rank
        return None if rank is None else adapters.lora_parameters(models["student"], rank)

    def reads(self, item: RoutedPrompt) -> bool:
        """A prompt without a label is left out if it lacks an answer that the reward needs, or if the experts
        are asked for its domain: an expert is the same before and after that."""
        if item.prompt.has_label:
            return True
        if self.config.routing.decides_late:
            return False
        return can_be_judged(item, self.config.domains[self.domain].reward)

    def order(self) -> ExpertOrder:
        """What has to be had."""
        return ExpertOrder(self.domain, self.config, self.block, tuple(filter(self.reads, self.prompts)))

    def planned(self, registry: Registry) -> PlannedStage:
        name, order = f"expert {self.domain}", self.order()
        if find_expert(registry, order) is not None:
            return PlannedStage(name, "found in the registry")
        done = last_checkpoint(_checkpoints(registry, order))
        left = self.block.steps - done
        return PlannedStage(name, progress(done), left, left * self.rollouts_per_step)

    def find(self, registry: Registry) -> ExpertRecord | None:
        found = find_expert(registry, self.order())
        return None if found is None else registry.check(registry.fetch(found))

    def build(self, registry: Registry, cluster: Cluster, measured: Measured) -> ExpertRecord:
        name, order = f"expert {self.domain}", self.order()
        done = last_checkpoint(_checkpoints(registry, order))
        with measured.stage(name), bar(f"{name} (GRPO)", self.block.steps, done) as shown:
            return build_expert(
                registry, order, cluster, lambda step, raw: shown.update(step, grpo_text(raw)), cluster.close
            )


def _checkpoints(registry: Registry, order: ExpertOrder) -> Path:
    return registry.root / "building" / expert_id(order.identity()) / "checkpoints"
