"""Whether the declared rewards can judge the routed prompts, asked before an expert is trained on them."""

from __future__ import annotations

from collections.abc import Sequence

from common.errors import ConfigError
from configs.blocks.prompts import Prompts
from configs.blocks.rewards import Reward, grader_settings, needs_answer, reward_title
from configs.schema import Domain
from merging.checks.found import Preflight
from routing.mix import by_domain
from routing.routers.decisions import RoutedPrompt


def rewards(found: Preflight) -> Preflight:
    """Refuses rewards that cannot judge their domain's prompts, and those that take decoys for right."""
    rows, problems, notes = by_domain(found.routed), [], []
    for name, domain in found.config.domains.items():
        place, routed = f"domains.{name}.reward", rows.get(name, [])
        try:
            problem = unfit_for(domain.reward, domain.prompts, routed)
            refused, warned = ("", "") if problem else _accepted_decoys(domain, routed)
        except ConfigError as error:
            problem, refused, warned = "; ".join(error.problems), "", ""
        problems += [f"{place}: {text}" for text in (problem, refused) if text]
        notes += [f"{place}: {warned}"] * bool(warned)
    return found.refusing(*problems, reward_notes=tuple(notes))


def unfit_for(reward: Reward, source: Prompts | None, rows: Sequence[RoutedPrompt]) -> str:
    """Why the reward cannot judge the rows of a source; empty if it can."""
    from eval.grading.answer_graders import unusable_grader
    from eval.grading.usable import unusable

    kind = reward if isinstance(reward, str) else reward.kind
    if source is not None and (fit := source.unfit_reward(kind)) is not None:
        return f"{reward_title(reward)!r} cannot judge prompts of {source.kind}; {fit} can"
    settings = reward if isinstance(reward, str) else grader_settings(reward)
    answered = _answered(rows)
    if needs_answer(reward):
        for item in answered:
            if problem := unusable(settings, item.prompt.answer):
                return f"{item.prompt.where}: {problem}"
        if not answered:
            return ""  # such prompts are only watched, and count 0
    return unusable_grader(settings, answered[0].prompt.answer if answered else None)


def _answered(rows: Sequence[RoutedPrompt]) -> list[RoutedPrompt]:
    return [item for item in rows if item.prompt.answer is not None]


def _accepted_decoys(domain: Domain, rows: Sequence[RoutedPrompt]) -> tuple[str, str]:
    """Why the reward is refused, and what the user should know, for the decoys that it takes for right."""
    from eval.grading import decoys
    from teachers.rewards import reward_of

    answered = _answered(rows)
    if not answered or not needs_answer(domain.reward):
        return "", ""
    settings = domain.reward if isinstance(domain.reward, str) else grader_settings(domain.reward)
    reward = reward_of(settings)

    def judge(completion: str, answer: object) -> float | None:
        try:
            return reward(completion, answer, True)
        except RuntimeError:  # nobody could judge it
            return None

    outcome = decoys.try_decoys(settings, [(i.prompt.text, i.prompt.answer) for i in answered], judge)
    refused, warned = [], []
    for kind, (decoy, share) in outcome.shares().items():
        said = f"{kind} ({decoy}) scores {share:.0%} on average on {outcome.rows} rows that were tried"
        if outcome.rows < decoys.ENOUGH_ROWS:
            continue  # of so few rows the answers may well be the same
        if share >= decoys.REFUSED_FROM[kind] and not (kind == decoys.CONSTANT and outcome.has_one_answer):
            refused.append(said)
        elif share >= decoys.WARNED_FROM[kind]:
            warned.append(said)
    said = "; ".join(refused)
    return said and f"{said}; reinforcement learning would find that", "; ".join(warned)
