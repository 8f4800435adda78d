"""The kinds of experts. Adding one is a config type in `configs.blocks.experts`, a class, and a line here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from configs.schema import MergeConfig
from merging.expert_kinds.built import BuiltExpert
from merging.expert_kinds.given import GivenAdapter, GivenModel
from merging.expert_kinds.kind import ExpertKind
from merging.expert_kinds.registered import RegisteredByName
from merging.expert_kinds.served import ServedTeacher
from routing.mix import by_domain
from routing.routers.decisions import RoutedPrompt
from teachers.registry.local import ExpertRecord

EXPERT_KINDS: dict[str, type[ExpertKind]] = {
    "rl": BuiltExpert,
    "model": GivenModel,
    "adapter": GivenAdapter,
    "registered": RegisteredByName,
    "served": ServedTeacher,
}
"""By `kind`: what a run asks of such an expert, see `merging.expert_kinds.kind.ExpertKind`."""


def experts_of(
    config: MergeConfig,
    routed: Sequence[RoutedPrompt] = (),
    records: Mapping[str, ExpertRecord] | None = None,
) -> dict[str, ExpertKind]:
    """The expert of every domain, in the order of the config, with its prompts and its record if given."""
    prompts, records = by_domain(routed), records or {}
    return {
        name: EXPERT_KINDS[domain.expert.kind](
            config, name, domain.expert, tuple(prompts.get(name, ())), records.get(name)
        )
        for name, domain in config.domains.items()
    }
