"""`reward_scale: auto`: each domain's lambda from a probe of the objective's optimum, before the merge."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.objective import PAPER_REWARD_SCALE
from configs.schema import MergeConfig
from merging.probe import ProbeResult, sample_optima, table_row
from merging.progress import say
from trainer.files import write_json

if TYPE_CHECKING:
    from merging.run import Teacher
    from merging.run_folder import RunFolder
    from routing.routers import RoutedPrompt


@dataclass(frozen=True)
class Choice:
    """The lambda of one domain, and why."""

    domain: str
    reward_scale: float
    reason: str
    curve: tuple[ProbeResult, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values, as in `probe.json`."""
        curve = [result.to_json() for result in self.curve]
        return {"reward_scale": self.reward_scale, "reason": self.reason, "curve": curve}


def choose_reward_scales(
    folder: RunFolder, teachers: Sequence[Teacher], routed: Sequence[RoutedPrompt]
) -> RunFolder:
    """The folder with a number in place of every `auto`; the probe runs once and is kept in `probe.json`."""
    config = folder.config
    automatic = [name for name in config.domains if config.reward_scale_of(name) is None]
    if automatic:
        with folder.measured.stage("probe"):
            paths = {t.domain: t.model_path for t in teachers if t.domain in automatic}
            scales = sorted({*config.probe.reward_scales, PAPER_REWARD_SCALE})
            results = sample_optima(config, routed, paths, scales, lambda result: say(table_row(result)))
        choices = [choose([r for r in results if r.domain == name], config.training.seed) for name in paths]
        write_json(probe_file(folder.path), {choice.domain: choice.to_json() for choice in choices})
    resolved = with_chosen(config, folder.path)
    for domain, choice in read_choices(folder.path).items():
        say(f"lambda of {domain}: {choice['reward_scale']:g} ({choice['reason']})")
    return replace(folder, config=resolved)


def choose(curve: Sequence[ProbeResult], seed: int) -> Choice:
    """The most accurate lambda of one domain's curve, or the paper's where none is better beyond noise.

    Compared on the same prompts by the 95% interval of the paired difference. The curve holds the paper's.
    """
    from eval.statistics import paired_difference

    by_scale = {result.reward_scale: result for result in curve}
    paper = by_scale[PAPER_REWARD_SCALE]
    # of equally accurate ones, the nearest to the paper's
    best = max(curve, key=lambda r: (r.accuracy, -abs(r.reward_scale - PAPER_REWARD_SCALE)))
    if best is paper:
        reason = f"most accurate of {len(curve)} lambdas in the probe: {paper.accuracy:.1%}"
        return Choice(paper.domain, PAPER_REWARD_SCALE, reason, tuple(curve))
    gain = paired_difference(best.scores, paper.scores, seed)
    found = (
        f"lambda {best.reward_scale:g} was most accurate in the probe, {best.accuracy:.1%} against "
        f"{paper.accuracy:.1%} at {PAPER_REWARD_SCALE:g}: {100 * gain.mean:+.1f} points, 95% interval "
        f"{100 * gain.lo:.1f} to {100 * gain.hi:.1f}, n = {gain.n_problems} prompts"
    )
    if gain.lo > 0:
        return Choice(paper.domain, best.reward_scale, found, tuple(curve))
    reason = f"{found}; that is within noise, so the paper's is kept"
    return Choice(paper.domain, PAPER_REWARD_SCALE, reason, tuple(curve))


def probe_file(run: Path) -> Path:
    """Where a run keeps its probe and what was chosen from it."""
    return run / "probe.json"


def read_choices(run: Path) -> dict[str, dict[str, Any]]:
    """What was chosen by domain, as `Choice.to_json` has it; empty where nothing was automatic."""
    path = probe_file(run)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def with_chosen(config: MergeConfig, run: Path) -> MergeConfig:
    """The config with what an earlier probe of this run chose in place of `auto`."""
    chosen: Mapping[str, float] = {
        domain: choice["reward_scale"]
        for domain, choice in read_choices(run).items()
        if config.reward_scale_of(domain) is None
    }
    return config.with_reward_scales(chosen)
