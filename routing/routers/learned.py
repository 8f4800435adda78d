"""A classifier that is trained on the labelled prompts decides on those without a label."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from common.errors import ConfigError
from configs.blocks.routing import LearnedRouting
from routing.routers.blocks import by_blocks
from routing.routers.measures import calibration_error, confusion, histogram, share_right
from routing.routers.novelty import Nearest
from routing.sources.collect import Prompt

if TYPE_CHECKING:
    import numpy as np

    from routing.routers.decisions import Decision, Decisions, RoutedPrompt

FEWEST = 10
"""Different labelled prompts that every domain needs."""

MOST = 2000
"""Labelled prompts of a domain that it learns from: a random choice of them where there are more."""

FOLDS = 4
"""Parts of the training prompts; the confidence is calibrated on each by a classifier of the others."""


def decide(
    unlabelled: Sequence[Prompt],
    labelled: Sequence[RoutedPrompt],
    cfg: LearnedRouting,
    domains: Sequence[str],
) -> Decisions:
    """The likeliest domain of each prompt; none where its calibrated confidence is under the threshold.

    Tested on labelled prompts that took part in nothing, then trained on all of them. Raises ConfigError
    for a domain with too few labelled prompts.
    """
    from routing.routers.decisions import Decision, Decisions

    if not unlabelled:
        return Decisions([])
    _check_enough(labelled, domains)
    if len(domains) == 1:
        return Decisions([Decision(domains[0], "the only domain", 1.0)] * len(unlabelled))
    labelled = _at_most(labelled, MOST, cfg.seed)
    texts = [item.prompt.text for item in labelled]
    data = Labelled.of(texts, [domains.index(item.domain) for item in labelled], cfg)
    tested = test(data, cfg)
    model = data.fitted()
    rows = data.features.read([prompt.text for prompt in unlabelled])
    probabilities = softmax(model.logits(rows) / tested.temperature)
    nearest = Nearest.of(data.rows, data.groups, data.features.vectorizer())
    alike, least = nearest.similarity(rows), cfg.novelty * nearest.typical
    each = [_decision(p, a, least, domains, cfg) for p, a in zip(probabilities, alike, strict=True)]
    novel = {"least_similarity": least, "unlike": int((alike < least).sum())}
    return Decisions(each, _measured(cfg, domains, labelled, tested, each) | novel)


def _check_enough(labelled: Sequence[RoutedPrompt], domains: Sequence[str]) -> None:
    different = {(item.domain, normalised(item.prompt.text)) for item in labelled}
    counts = Counter(domain for domain, _ in different)
    short = [domain for domain in domains if counts[domain] < FEWEST]
    if short:
        found = ", ".join(f"{domain}: {counts[domain]}" for domain in domains)
        raise ConfigError(
            f"routing: learned needs {FEWEST} different labelled prompts of every domain to learn from, and "
            f"{short[0]!r} has too few (labelled prompts by domain: {found})"
        )


def _at_most(labelled: Sequence[RoutedPrompt], most: int, seed: int) -> list[RoutedPrompt]:
    """At most so many of each domain, by a seeded choice."""
    rng = random.Random(f"learned:{seed}")
    chosen: list[RoutedPrompt] = []
    for domain in dict.fromkeys(item.domain for item in labelled):
        own = [item for item in labelled if item.domain == domain]
        chosen += own if len(own) <= most else rng.sample(own, most)
    return chosen


def _decision(
    probabilities: np.ndarray, alike: float, least: float, domains: Sequence[str], cfg: LearnedRouting
) -> Decision:
    from routing.routers.decisions import Decision

    best = int(probabilities.argmax())
    confidence = float(probabilities[best])
    if alike < least:
        why = f"it is like no labelled prompt (similarity {alike:.2f}, least {least:.2f})"
        return Decision(None, why, confidence)
    if confidence < cfg.threshold:
        why = (
            f"confidence {confidence:.2f} for {domains[best]!r} is under routing.threshold {cfg.threshold:g}"
        )
        return Decision(None, why, confidence)
    return Decision(domains[best], f"learned, confidence {confidence:.2f}", confidence)


def normalised(text: str) -> str:
    """A text as it is compared: the same prompt in other case or spacing is no other prompt."""
    return " ".join(text.lower().split())


# ------------------------------------------------------------------------------- training, testing


@dataclass(frozen=True)
class Labelled:
    """Prompts whose domain is known, as features."""

    features: Any
    """`routing.routers.text_features`: reads texts, and makes a classifier of what it read."""
    rows: Any
    """What `features.read` made of them, [prompts, ...]."""
    targets: np.ndarray
    """Place of each one's domain, [prompts]."""
    groups: np.ndarray
    """The same number for the same normalised text, [prompts]: such prompts stay on one side of a split."""

    @classmethod
    def of(cls, texts: Sequence[str], targets: Sequence[int], cfg: LearnedRouting) -> Labelled:
        import numpy as np

        from routing.routers.text_features import features_of

        features = features_of(cfg.features)
        numbers: dict[str, int] = {}
        groups = [numbers.setdefault(normalised(text), len(numbers)) for text in texts]
        return cls(features, features.read(texts), np.array(targets), np.array(groups))

    def part(self, places: np.ndarray) -> Labelled:
        """Some of them."""
        return Labelled(self.features, self.rows[places], self.targets[places], self.groups[places])

    def fitted(self) -> Classifier:
        """A classifier of all of them, the domains of equal weight."""
        model = self.features.classifier()
        model.fit(self.rows, self.targets)
        return Classifier(model)


@dataclass(frozen=True)
class Classifier:
    """A fitted scikit-learn pipeline."""

    model: Any

    def logits(self, rows: Any) -> np.ndarray:
        """[prompts, domains], whose softmax are the probabilities."""
        import numpy as np

        found = by_blocks(self.model.decision_function, rows)
        return found if found.ndim == 2 else np.stack([np.zeros_like(found), found], axis=1)


@dataclass(frozen=True)
class Tested:
    """What a classifier made of labelled prompts that it was neither trained nor calibrated on."""

    targets: np.ndarray
    logits: np.ndarray
    """[prompts, domains]"""
    temperature: float
    """What the logits are divided by, so that the confidence is how often it is right."""

    @property
    def guesses(self) -> np.ndarray:
        """Place of the likeliest domain, [prompts]."""
        return self.logits.argmax(axis=1)

    def calibration_error(self, temperature: float) -> float:
        """Expected calibration error at a temperature."""
        best = softmax(self.logits / temperature).max(axis=1)
        return calibration_error(best.tolist(), (self.guesses == self.targets).tolist())


def test(data: Labelled, cfg: LearnedRouting) -> Tested:
    """Trains and calibrates on one part of the labelled prompts, tests on the other."""
    folds = max(2, round(1 / cfg.held_out))
    train, held = next(splits(data, folds, cfg.seed))
    kept, tested = data.part(train), data.part(held)
    temperature = fitted_temperature(*out_of_fold(kept, cfg.seed))
    return Tested(tested.targets, kept.fitted().logits(tested.rows), temperature)


def out_of_fold(data: Labelled, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(logits [prompts, domains], targets [prompts]): each prompt's from a classifier that did not see it."""
    import numpy as np

    logits, targets = [], []
    for train, held in splits(data, FOLDS, seed):
        logits.append(data.part(train).fitted().logits(data.part(held).rows))
        targets.append(data.targets[held])
    return np.concatenate(logits), np.concatenate(targets)


def splits(data: Labelled, folds: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(train, held-out) places of each fold, every domain in both, equal texts on one side."""
    from sklearn.model_selection import StratifiedGroupKFold

    split = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    return split.split(data.targets, data.targets, data.groups)


# ------------------------------------------------------------------------------------- calibration


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities, [prompts, domains]."""
    from scipy.special import softmax

    return softmax(logits, axis=1)


def fitted_temperature(logits: np.ndarray, targets: np.ndarray) -> float:
    """The temperature at which the targets are likeliest, within 0.05 and 20 (Guo et al. 2017, "On
    Calibration of Modern Neural Networks").

    Each target has the probability (n+1)/(n+2) only, as in Platt's scaling: with n right guesses out of n the
    likeliest temperature would be 0, and every confidence 1.
    """
    import numpy as np
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    n, domains = logits.shape
    wanted = np.full((n, domains), 1 / (n + 2) / (domains - 1))
    wanted[np.arange(n), targets] = (n + 1) / (n + 2)

    def loss(log_temperature: float) -> float:
        return -(wanted * log_softmax(logits / math.exp(log_temperature), axis=1)).sum(axis=1).mean()

    found = minimize_scalar(loss, bounds=(math.log(0.05), math.log(20)), method="bounded")
    return math.exp(found.x)


# ------------------------------------------------------------------------------------------ report


def _measured(
    cfg: LearnedRouting,
    domains: Sequence[str],
    labelled: Sequence[RoutedPrompt],
    tested: Tested,
    each: Sequence[Any],
) -> dict[str, Any]:
    truths = [domains[int(place)] for place in tested.targets]
    guesses = [domains[int(place)] for place in tested.guesses]
    confidences = softmax(tested.logits / tested.temperature).max(axis=1)
    sure = [(t, g) for t, g, c in zip(truths, guesses, confidences, strict=True) if c >= cfg.threshold]
    return {
        "kind": "learned",
        "features": cfg.features.kind,
        "labelled": dict(Counter(item.domain for item in labelled)),
        "unlabelled": len(each),
        "against": "labelled prompts that it was neither trained nor calibrated on",
        "tested": share_right(truths, guesses),
        "confusion": confusion(truths, guesses),
        "threshold": cfg.threshold,
        "tested_above_threshold": share_right([t for t, _ in sure], [g for _, g in sure]) if sure else None,
        "undecided": sum(decision.domain is None for decision in each),
        "otherwise": cfg.otherwise_text(),
        "temperature": tested.temperature,
        "calibration_error": {
            "before": tested.calibration_error(1.0),
            "after": tested.calibration_error(tested.temperature),
        },
        "histogram": histogram([decision.confidence for decision in each]),
    }
