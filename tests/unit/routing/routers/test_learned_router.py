"""The router `learned`: what it learns from, how it is tested, calibrated and told."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from configs.blocks.routing import EmbeddingFeatures, LearnedRouting
from routing.routers import learned
from routing.routers.measures import calibration_error, confusion, histogram, share_right
from routing.routers.route import route
from routing.sources.collect import Prompt
from tests.helpers.messages import refuses
from tests.helpers.paths import DEMO

DOMAINS = ["math", "code"]


def prompt(number: int, text: str, label: str | None) -> Prompt:
    return Prompt(f"id{number}", ({"role": "user", "content": text},), None, label, "f.jsonl", number + 1)


@pytest.fixture(scope="module")
def demo() -> list[tuple[str, str]]:
    """(text, domain) of the demo's training prompts without the word that names the domain."""
    found = []
    for domain in DOMAINS:
        for line in (DEMO / f"{domain}.train.jsonl").read_text().splitlines():
            text = json.loads(line)["prompt"]
            found.append((text.partition(": ")[2] or text, domain))
    random.Random(0).shuffle(found)
    return found[:400]


def given(demo, labelled: int) -> list[Prompt]:
    return [prompt(i, text, domain if i < labelled else None) for i, (text, domain) in enumerate(demo)]


def test_it_learns_the_demos_domains(demo):
    routed = route(given(demo, 200), LearnedRouting(kind="learned"), DOMAINS)
    right = [item.domain == demo[i][1] for i, item in enumerate(routed.prompts)]
    assert sum(right) / len(right) > 0.98
    found = routed.measured
    assert found["unlabelled"] == 200 and sum(found["labelled"].values()) == 200
    assert found["tested"]["n"] == 40 and found["tested"]["accuracy"] > 0.95
    assert sum(sum(row.values()) for row in found["confusion"].values()) == 40
    assert sum(row["prompts"] for row in found["histogram"]) == 200
    assert all(item.confidence is not None for item in routed.prompts[200:])
    assert all(item.confidence is None for item in routed.prompts[:200])


def test_labels_that_say_nothing_are_found_out(demo):
    """Random labels: the accuracy on held-out prompts is that of guessing, and few prompts are decided on."""
    rng = random.Random(1)
    noise = [prompt(i, text, rng.choice(DOMAINS)) for i, (text, _) in enumerate(demo[:300])]
    rest = [prompt(1000 + i, text, None) for i, (text, _) in enumerate(demo[300:])]
    cfg = LearnedRouting(kind="learned", otherwise="drop", threshold=0.9)
    routed = route([*noise, *rest], cfg, DOMAINS)
    lo, hi = routed.measured["tested"]["interval"]
    assert lo < 0.5 < hi or abs(routed.measured["tested"]["accuracy"] - 0.5) < 0.2
    assert routed.measured["temperature"] > 1  # it was too sure of itself
    assert routed.measured["calibration_error"]["after"] < routed.measured["calibration_error"]["before"]
    assert len(routed.dropped) > 90 and routed.measured["undecided"] == len(routed.dropped)


def test_the_same_text_never_stands_on_both_sides_of_a_split():
    texts = [f"Prompt  {i % 10}" if i % 2 else f"prompt {i % 10} " for i in range(80)]
    cfg = LearnedRouting(kind="learned")
    data = learned.Labelled.of(texts, [i % 10 < 5 for i in range(80)], cfg)
    for seed in range(5):
        for train, held in learned.splits(data, 5, seed):
            left = {learned.normalised(texts[i]) for i in train}
            assert not left & {learned.normalised(texts[i]) for i in held}


def test_confidence_is_calibrated_on_prompts_that_the_classifier_did_not_see(demo):
    """On its own training prompts a classifier of noise is always right, and would be called certain."""
    rng = random.Random(2)
    data = learned.Labelled.of(
        [text for text, _ in demo], [int(rng.random() < 0.5) for _ in demo], LearnedRouting(kind="learned")
    )
    honest = learned.fitted_temperature(*learned.out_of_fold(data, 0))
    seen = learned.fitted_temperature(data.fitted().logits(data.rows), data.targets)
    assert honest > 2 * seen
    cfg = LearnedRouting(kind="learned")
    train, _ = next(learned.splits(data, 5, 0))
    assert learned.test(data, cfg).temperature == pytest.approx(
        learned.fitted_temperature(*learned.out_of_fold(data.part(train), 0))
    )


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_the_temperature_that_made_the_labels_is_found(true):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 3)) * 4
    probabilities = learned.softmax(logits / true)
    targets = (probabilities.cumsum(axis=1) > rng.random((len(logits), 1))).argmax(axis=1)
    assert learned.fitted_temperature(logits, targets) == pytest.approx(true, rel=0.05)


def test_a_perfect_classifier_of_few_prompts_is_not_called_certain():
    logits = np.array([[5.0, -5.0]] * 10)
    temperature = learned.fitted_temperature(logits, np.zeros(10, dtype=int))
    assert learned.softmax(logits / temperature)[0, 0] == pytest.approx(11 / 12, abs=0.01)


def test_each_option_changes_something(demo):
    prompts = given(demo, 60)

    def found(**options):
        routed = route(prompts, LearnedRouting(kind="learned", otherwise="drop", **options), DOMAINS)
        return (
            routed.measured,
            [(i.prompt.id, i.domain, i.confidence) for i in routed.prompts],
            len(routed.dropped),
        )

    usual = found()
    assert found() == usual
    assert found(threshold=0.999)[2] > usual[2]
    assert found(novelty=0.0)[0]["unlike"] == 0 and found(novelty=1.0)[0]["unlike"] >= usual[0]["unlike"]
    assert found(held_out=0.5)[0]["tested"]["n"] > usual[0]["tested"]["n"]
    assert found(seed=1)[0]["temperature"] != usual[0]["temperature"]


def test_an_encoders_embeddings_are_features_too(demo):
    student = EmbeddingFeatures(kind="embeddings", path=DEMO / "student")
    routed = route(
        given(demo, 200), LearnedRouting(kind="learned", features=student, otherwise="drop"), DOMAINS
    )
    assert routed.measured["features"] == "embeddings"
    assert routed.measured["tested"]["accuracy"] > 0.9


def test_a_prompt_like_no_labelled_one_is_not_decided_on_however_sure_the_classifier_is(demo):
    odd = ["Write a poem about the sea.", "Bonjour, ma ch\u00e8re", "12 monkeys and a train", ""]
    given = [prompt(i, text, domain) for i, (text, domain) in enumerate(demo[:300])]
    given += [prompt(1000 + i, text, None) for i, (text, _) in enumerate(demo[300:])]
    given += [prompt(2000 + i, text, None) for i, text in enumerate(odd)]
    cfg = LearnedRouting(kind="learned", otherwise="drop", threshold=0.0)
    routed = route(given, cfg, DOMAINS)
    gone = {p.id for p, why in routed.dropped if "like no labelled prompt" in why}
    assert gone >= {"id2000", "id2001", "id2003"} and len(gone) == routed.measured["unlike"] <= 8
    assert not route(given, cfg.model_copy(update={"novelty": 0.0}), DOMAINS).dropped


@pytest.mark.parametrize("path, message", [("nowhere", "no model folder"), ("broken", "cannot be loaded")])
def test_an_encoder_that_is_none_is_refused(demo, tmp_path, path, message):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    features = EmbeddingFeatures(kind="embeddings", path=tmp_path / path)
    with refuses("routing.features.path", message):
        route(given(demo, 200), LearnedRouting(kind="learned", features=features), DOMAINS)


def test_too_few_different_labelled_prompts_are_refused_with_their_counts(demo):
    same = [prompt(i, "Same  Text" if i % 2 else "same text", "code") for i in range(30)]
    math = [prompt(100 + i, text, "math") for i, (text, domain) in enumerate(demo) if domain == "math"][:20]
    with refuses("'code'", "math: 20", "code: 1"):
        route([*same, *math, prompt(999, "x", None)], LearnedRouting(kind="learned"), DOMAINS)


def test_it_learns_from_at_most_so_many_of_a_domain(demo, monkeypatch):
    monkeypatch.setattr(learned, "MOST", 30)
    routed = route(given(demo, 300), LearnedRouting(kind="learned", otherwise="drop"), DOMAINS)
    assert routed.measured["labelled"] == {"math": 30, "code": 30}
    assert len(routed.prompts) + len(routed.dropped) == 400


def test_with_one_domain_there_is_nothing_to_learn():
    one = [prompt(i, f"p{i}", "math") for i in range(10)]
    routed = route([*one, prompt(99, "x", None)], LearnedRouting(kind="learned"), ["math"])
    assert routed.prompts[-1].reason == "the only domain"


# ------------------------------------------------------------------------------------ measurements


def test_measures_by_hand():
    truths, guesses = ["a", "a", "b", "b"], ["a", "b", "b", None]
    assert share_right(truths, guesses) | {"interval": None} == {
        "n": 4, "right": 2, "accuracy": 0.5, "interval": None,
    }  # fmt: skip
    assert share_right(truths, guesses)["interval"] == pytest.approx([0.1500, 0.8500], abs=1e-3)
    assert confusion(truths, guesses) == {"a": {"a": 1, "b": 1}, "b": {"b": 1, "none": 1}}
    bins = [row["prompts"] for row in histogram([0.0, 0.05, 0.1, 0.99, 1.0])]
    assert bins == [2, 1, 0, 0, 0, 0, 0, 0, 0, 2]
    # one bin: confidence 0.95 and 0.91, one of two right: |1.86 - 1| / 2
    assert calibration_error([0.95, 0.91], [True, False]) == pytest.approx(0.43)
    # two bins: |0.95 - 1| + |0.55 - 0| over 2
    assert calibration_error([0.95, 0.55], [True, False]) == pytest.approx(0.30)
