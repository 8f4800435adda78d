"""The router `agreement` at work: the student answers, every teacher and its reference read the answers, and
the teacher with the largest signal decides. Runs once, after the experts are there; experimental."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import ConfigError
from common.progress import say
from configs.blocks.routing import AgreementRouting
from configs.prompt_mode import PromptMode, distinct
from configs.schema import MergeConfig
from merging.checks.found import Preflight
from merging.checks.preflight import DECIDED, checked
from merging.state.cluster import OnDevice, here
from routing.routers.agreement import most_moved
from routing.routers.agreement_file import decisions_key, write_decisions
from routing.routers.decisions import Decision, Decisions, RoutedPrompt
from routing.routers.measures import confusion, share_right
from routing.sources.collect import Prompt

if TYPE_CHECKING:
    from merging.state.run_folder import RunFolder
    from merging.state.teacher import Teacher
    from teachers.scoring.scored import Scored
    from teachers.scoring.scorer import SharedScorer

Signals = Mapping[str, float]
"""Domain to its teacher's signal on one prompt's answers, in nats a token."""


def decide_open_prompts(
    folder: RunFolder, found: Preflight, teachers: Sequence[Teacher], on_device: OnDevice = here
) -> Preflight:
    """What the preflight found, with a domain for every prompt that it left open; kept in the run folder.

    `on_device` says where the models are read.
    Raises ConfigError where a prompt stays undecided and is not to be left out, or a domain without prompts.
    """
    if not found.undecided:
        return found
    config, router = folder.config, folder.config.routing
    assert isinstance(router, AgreementRouting)
    with folder.measured.stage("routing"):
        known = _some_labelled(found.routed, router.measured_on, config)
        say(f"router agreement (experimental): {len(found.undecided)} prompts, tested on {len(known)}")
        prompts = [item.prompt for item in (*known, *found.undecided)]
        (signals,) = on_device(_signals, config, prompts, teachers)
        each = [most_moved(signal, router.margin) for signal in signals]
        measured = _measured(router, known, each[: len(known)], each[len(known) :])
        decided = checked(found.decided(Decisions(each[len(known) :], measured), config), DECIDED)
        undecided = [item.prompt for item in found.undecided]
        write_decisions(folder.path, decisions_key(found.config), undecided, each[len(known) :], measured)
    for note in decided.router_notes():
        say(note)
    return decided


def _some_labelled(routed: Sequence[RoutedPrompt], most: int, config: MergeConfig) -> list[RoutedPrompt]:
    """The first `most` labelled prompts of each domain, of those that can be asked in every domain's mode."""
    modes = config.prompt_modes().values()
    able = [item for item in routed if all(mode.takes(item.prompt.messages) for mode in modes)]
    own = {name: [item for item in able if item.domain == name] for name in config.domains}
    return [item for items in own.values() for item in items[:most]]


def _measured(
    router: AgreementRouting,
    known: Sequence[RoutedPrompt],
    own: Sequence[Decision],
    each: Sequence[Decision],
) -> dict[str, Any]:
    truths, guesses = [item.domain for item in known], [decision.domain for decision in own]
    return {
        "kind": "agreement",
        "signal": router.signal,
        "unlabelled": len(each),
        "margin": router.margin,
        "under_margin": sum(decision.domain is None for decision in each),
        "otherwise": router.otherwise_text(),
        "against": "labelled prompts",
        "tested": share_right(truths, guesses) if known else None,
        "confusion": confusion(truths, guesses) if known else None,
    }


# ----------------------------------------------------------------------------------------- signals


def _signals(
    config: MergeConfig, prompts: Sequence[Prompt], teachers: Sequence[Teacher]
) -> Iterator[list[Signals]]:
    yield prompt_signals(config, prompts, teachers)


def prompt_signals(
    config: MergeConfig, prompts: Sequence[Prompt], teachers: Sequence[Teacher]
) -> list[Signals]:
    """Each prompt's signals, from answers of the student that every teacher and its reference read.

    A teacher reads answers to the prompt as its own domain asks it, so there are answers for every mode.
    `config` names models by folder. Raises ConfigError for a student that cannot be prompted.
    """
    from merging.exopd.job import scorer_dtype
    from merging.exopd.names import references
    from teachers.scoring.scorer import SharedScorer

    router = config.routing
    assert isinstance(router, AgreementRouting)
    modes = config.prompt_modes()
    rollouts = _rollouts(config, router, prompts, distinct(modes))
    names, paths = references(config)
    read = {teacher.domain: teacher.adapter_path or teacher.folder for teacher in teachers}
    scorer = SharedScorer(
        {name: str(path) for name, path in {**paths, **read}.items()},
        config.hardware.device,
        scorer_dtype(config),
        config.scorer.tokens_per_batch,
        config.scorer.canary,
        base=config.student,
    )
    keys = {domain: modes[domain].key() for domain in read}
    wanted = dict.fromkeys((name, keys[domain]) for domain in read for name in (names[domain], domain))
    # model by model: a change of models costs a swap
    scores = {
        (name, key): _response_logp(scorer, name, rollouts[key])
        for model in (*paths, *read)
        for name, key in wanted
        if name == model
    }
    rows = {
        domain: [
            signal(teacher, reference, router.signal)
            for teacher, reference in zip(scores[domain, key], scores[names[domain], key], strict=True)
        ]
        for domain, key in keys.items()
    }
    count = router.samples_per_prompt
    return [
        {domain: sum(values[place : place + count]) / count for domain, values in rows.items()}
        for place in range(0, len(prompts) * count, count)
    ]


def signal(teacher_logp: Sequence[float], reference_logp: Sequence[float], kind: str) -> float:
    """`reward`: the mean of T - B over an answer's tokens; `change`: the mean of |T - B|."""
    rewards = [t - b for t, b in zip(teacher_logp, reference_logp, strict=True)]
    return sum(abs(r) if kind == "change" else r for r in rewards) / len(rewards)


def _rollouts(
    config: MergeConfig, router: AgreementRouting, prompts: Sequence[Prompt], modes: Sequence[PromptMode]
) -> dict[str, list[Scored]]:
    """The student's answers to each prompt in each mode (by its key), as many as the router wants, drawn at
    temperature 1."""
    from merging.exopd.job import scorer_dtype
    from merging.training.probe import encoded_prompts, student_tokenizer
    from teachers.models.fingerprint import fingerprint
    from teachers.scoring.mixture import MixtureDecoder
    from teachers.scoring.scored import Scored

    if fingerprint(config.student).chat_template_sha256 is None:
        raise ConfigError(f"student ({config.student}): has no chat template, so it cannot be prompted")
    tokenizer, ends = student_tokenizer(Path(config.student))
    longest = router.max_tokens or config.training.max_response_tokens
    hardware = config.hardware
    decoder = MixtureDecoder(
        {"student": config.student}, hardware.device, scorer_dtype(config), hardware.probe_cache_bytes
    )
    found = {}
    for mode in modes:
        encoded = encoded_prompts(tokenizer, prompts, mode)
        every = [ids for ids in encoded for _ in range(router.samples_per_prompt)]
        answers = decoder.decode(["student"], lambda logp: logp, every, longest, ends, config.training.seed)
        # an answer that ended by itself keeps the end token: it is never empty
        found[mode.key()] = [
            Scored(
                (*ids, *answer.token_ids, *ends[: answer.finished]), len(answer.token_ids) + answer.finished
            )
            for ids, answer in zip(every, answers, strict=True)
        ]
    return found


def _response_logp(scorer: SharedScorer, name: str, rollouts: Sequence[Scored]) -> list[list[float]]:
    """log p of each answer's tokens."""
    rows = scorer.score(name, list(rollouts))
    return [
        logp_T[rollout.scoring_positions.start : rollout.scoring_positions.stop].tolist()
        for logp_T, rollout in zip(rows, rollouts, strict=True)
    ]
