"""What `protege route` prints: how prompts are routed and mixed, with examples."""

from __future__ import annotations

from collections.abc import Iterator

from configs.schema import MergeConfig
from merging import prompt_data
from routing.mix import by_domain
from routing.routers import route
from routing.sources import collect_prompts


def lines(config: MergeConfig, examples: int) -> Iterator[str]:
    """Counts, share and `examples` prompts of each domain; raises ConfigError. Loads no model."""
    found = collect_prompts(config)
    routed = route(found.prompts, config.routing, list(config.domains))
    dropped = prompt_data.duplicates(found.repeated, routed)
    (routed, conflicting), conflicts = prompt_data.without_conflicts(routed, config.conflicts)
    dropped += conflicting
    prompt_data.check_mix(config, routed, dropped)
    groups, mixed = by_domain(routed), prompt_data.mix_of(config, routed)
    for name in config.domains:
        scale = config.reward_scale_of(name)
        part = prompt_data.mix_text(mixed, config, name)
        shown = "auto" if scale is None else f"{scale:g}"
        yield f"{name}: {len(groups[name])} prompts, {part}, lambda {shown}"
        for item in groups[name][:examples]:
            text = " ".join(item.prompt.text.split())
            text = text if len(text) <= 100 else text[:97] + "..."
            yield f"  row {item.prompt.row} ({item.reason}): {text}"
    yield f"{found.duplicates} duplicate prompts dropped"
    for note in prompt_data.notes(dropped, [], conflicts, config.overlap.action):
        if "duplicate prompts" not in note:
            yield note
    if config.training.too_long == "drop" or config.overlap.action == "drop":
        yield "`protege check` also drops prompts that are too long or repeat a benchmark"
