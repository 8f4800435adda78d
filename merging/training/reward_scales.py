"""`reward_scale: auto`: each domain's lambda from a probe of the objective's optimum, before the merge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from common.files import write_json
from common.progress import say
from configs.blocks.objective import PAPER_REWARD_SCALE
from merging.state.chosen_scales import has_both_decodings, probe_file, valid_choices, with_chosen
from merging.state.cluster import OnDevice, here
from merging.training.probe import ProbeResult, sample_optima, table_row

if TYPE_CHECKING:
    from merging.state.run_folder import RunFolder
    from merging.state.teacher import Teacher
    from routing.routers.decisions import RoutedPrompt


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
    folder: RunFolder,
    teachers: Sequence[Teacher],
    routed: Sequence[RoutedPrompt],
    on_device: OnDevice = here,
) -> RunFolder:
    """The folder with a number in place of every `auto`; the probe runs once and is kept in `probe.json`.

    One that an earlier version kept, without greedy answers, is made anew unless rows have its lambdas.
    """
    config = folder.config
    automatic = [name for name in config.domains if config.reward_scale_of(name) is None]
    if automatic:
        with folder.measured.stage("probe"):
            paths = {t.domain: t.folder for t in teachers if t.domain in automatic}
            scales = sorted({*config.probe.reward_scales, PAPER_REWARD_SCALE})
            results = sample_optima(
                config, routed, paths, scales, lambda result: say(table_row(result)), on_device
            )
        choices = [choose([r for r in results if r.domain == name], config.training.seed) for name in paths]
        made = {choice.domain: choice.to_json() for choice in choices}
        write_json(probe_file(folder.path), {**valid_choices(folder.path), **made})
    resolved = with_chosen(config, folder.path)
    for domain, choice in valid_choices(folder.path).items():
        older = "" if has_both_decodings(choice) else "; greedy: not measured, by an earlier version"
        say(f"lambda of {domain}: {choice['reward_scale']:g} ({choice['reason']}{older})")
    return replace(folder, config=resolved)


def choose(curve: Sequence[ProbeResult], seed: int) -> Choice:
    """The lambda of one domain's curve whose mean of sampled and greedy accuracy is highest, or the paper's
    where none is better beyond noise.

    Both decodings count alike: at temperature 1 much of a gain may be a sharper distribution, which greedy
    answers do not gain from. Compared on the same prompts by the 95% interval of the paired difference of
    each prompt's mean. The curve holds the paper's.
    """
    from eval.statistics.intervals import paired_difference

    by_scale = {result.reward_scale: result for result in curve}
    paper = by_scale[PAPER_REWARD_SCALE]
    # of equally accurate ones, the nearest to the paper's
    best = max(curve, key=lambda r: (r.accuracy, -abs(r.reward_scale - PAPER_REWARD_SCALE)))
    if best is paper:
        reason = f"best of {len(curve)} lambdas in the probe: {_text(paper)}, n = {paper.prompts} prompts"
        return Choice(paper.domain, PAPER_REWARD_SCALE, reason, tuple(curve))
    gain = paired_difference(best.scores, paper.scores, seed)
    found = (
        f"lambda {best.reward_scale:g} was best in the probe, {_text(best)}; {_text(paper)} at "
        f"{PAPER_REWARD_SCALE:g}: {100 * gain.mean:+.1f} points, 95% interval {100 * gain.lo:.1f} to "
        f"{100 * gain.hi:.1f}, n = {gain.n_problems} prompts"
    )
    if gain.lo > 0:
        return Choice(paper.domain, best.reward_scale, found, tuple(curve))
    reason = f"{found}; that is within noise, so the paper's is kept"
    return Choice(paper.domain, PAPER_REWARD_SCALE, reason, tuple(curve))


def _text(result: ProbeResult) -> str:
    """What it is chosen by."""
    return (
        f"{result.accuracy:.1%} in the mean of sampled ({result.sampled.accuracy:.1%}) and greedy "
        f"({result.greedy.accuracy:.1%})"
    )
