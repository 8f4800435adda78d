"""Decoding from a join of models: equal to the slow way, one token at a time without caches, and bounded."""

from __future__ import annotations

import pytest

from teachers.scoring.mixture import HEADROOM_TOKENS, MODELS_LOADED, Decoded, MixtureDecoder, token_bytes
from tests.helpers.live_storage import LiveStorage
from tests.helpers.model_copies import noisy_copy
from tests.helpers.paths import STUDENT

torch = pytest.importorskip("torch")

EOS = 1
PROMPTS = ["Math: 37+48\n", "Math: 3*4+5\n", "Code: sum of xs\n"]
MIB = 1 << 20


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        "reference": str(STUDENT),
        **{name: str(noisy_copy(folder / name, seed)) for name, seed in (("math", 5), ("code", 6))},
    }


@pytest.fixture
def decoder(folders):
    return MixtureDecoder(folders, "cpu", "float32", 64 * MIB)


@pytest.fixture(scope="module")
def prompts():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(STUDENT)
    return [tokenizer.encode(text) for text in PROMPTS]


def alone(logp):
    return logp


def extrapolated(teacher, reference):
    return (1.5 * teacher - 0.5 * reference).log_softmax(-1)


def slow_greedy(decoder, names, join, prompt, max_tokens):
    ids, answer = list(prompt), []
    with torch.inference_mode():
        for _ in range(max_tokens):
            logp = [decoder.models[name](torch.tensor([ids])).logits[0, -1].log_softmax(-1) for name in names]
            token = int(join(*logp).argmax())
            if token == EOS:
                return Decoded(tuple(answer), True)
            answer.append(token)
            ids.append(token)
    return Decoded(tuple(answer), False)


@pytest.mark.parametrize(
    ("names", "join"),
    [(["math", "reference"], extrapolated), (["math"], alone), (["reference"], alone)],
)
def test_greedy_equals_the_slow_way(decoder, prompts, names, join):
    found = decoder.decode(names, join, prompts, 40, [EOS], seed=None)
    assert found == [slow_greedy(decoder, names, join, prompt, 40) for prompt in prompts]
    assert any(answer.finished for answer in found) and all(answer.tokens > 0 for answer in found)


def test_a_prompt_that_is_read_in_pieces_is_read_whole(decoder, prompts, monkeypatch):
    whole = decoder.decode(["reference"], alone, prompts, 40, [EOS], seed=None)
    monkeypatch.setattr("teachers.scoring.mixture.PREFILL_TOKENS", 6)  # two columns of three rows
    widths = []
    decoder.models["reference"].register_forward_pre_hook(
        lambda _, args, given: widths.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    assert decoder.decode(["reference"], alone, prompts, 40, [EOS], seed=None) == whole
    assert set(widths[:3]) == {(3, 2)}


def test_the_limit_cuts_an_answer_off(decoder, prompts):
    whole, cut = (decoder.decode(["reference"], alone, prompts[:1], n, [EOS], None)[0] for n in (40, 3))
    assert cut == Decoded(whole.token_ids[:3], False) and cut.tokens == 3
    assert whole.finished and whole.tokens == len(whole.token_ids) + 1


def test_a_seed_repeats_and_another_differs(decoder, prompts):
    draw = lambda seed: decoder.decode(["reference"], alone, prompts * 4, 20, [EOS], seed)  # noqa: E731
    assert draw(1) == draw(1) != draw(2)
    assert len(set(draw(1))) > len(prompts)  # copies of one prompt have answers of their own


def fixed(logp):
    """Half of the tokens are 5 and half are 7, whatever the models say."""
    answer = torch.full_like(logp, float("-inf"))
    answer[:, [5, 7]] = torch.log(torch.tensor(0.5))
    return answer


def test_tokens_are_drawn_from_what_the_join_returns(decoder, prompts):
    first = [a.token_ids[0] for a in decoder.decode(["math"], fixed, prompts[:1] * 200, 1, [EOS], seed=3)]
    assert set(first) == {5, 7} and 70 < first.count(5) < 130


# ----------------------------------------------------------------------------- rows, memory, models


def rows_read(decoder, names):
    """Counts the rows that each model reads, in every call."""
    counts: dict[str, list[tuple[int, int]]] = {name: [] for name in names}
    for name, model in zip(names, decoder.loaded(names), strict=True):
        model.register_forward_pre_hook(
            lambda _, args, given, own=counts[name]: own.append(tuple(given["input_ids"].shape)),
            with_kwargs=True,
        )
    return counts


def test_a_row_that_has_ended_is_not_computed_any_more(decoder, prompts):
    names, every = ["math", "reference"], prompts * 8
    counts = rows_read(decoder, names)
    answers = decoder.decode(names, extrapolated, every, 40, [EOS], seed=1)
    lengths = [answer.tokens for answer in answers]
    assert len(set(lengths)) > 5 and sum(answer.finished for answer in answers) > 12
    for calls in counts.values():
        assert sum(rows for rows, _ in calls) == sum(lengths) < len(every) * max(lengths)
        # call n makes the n-th token: of those answers that have one
        assert [rows for rows, _ in calls] == [
            sum(n < length for length in lengths) for n in range(len(calls))
        ]


def tight(folders, width, rows):
    """A decoder in which so many rows of this width fit, for two models."""
    probe = MixtureDecoder(folders, "cpu", "float32", MIB)
    (model,) = probe.loaded(["reference"])
    a_row = width * 2 * token_bytes(model) + model.config.vocab_size * (4 * 2 + 24)
    return MixtureDecoder(folders, "cpu", "float32", rows * a_row)


def test_answers_are_the_same_whatever_is_decoded_together(folders, prompts):
    """Batched, put back and taken up again, or one by one: the same seed draws the same answers."""
    names, every = ["math", "reference"], prompts * 8
    wide = MixtureDecoder(folders, "cpu", "float32", 1 << 30)
    together = wide.decode(names, extrapolated, every, 40, [EOS], seed=1)
    narrow = tight(folders, HEADROOM_TOKENS + max(map(len, prompts)), rows=5)
    counts = rows_read(narrow, names)
    assert narrow.decode(names, extrapolated, every, 40, [EOS], seed=1) == together
    assert max(rows for rows, _ in counts["math"]) == 5 < len(every)
    single = tight(folders, 1, rows=1)
    assert single.decode(names, extrapolated, every, 40, [EOS], seed=1) == together


def test_rows_that_grow_out_of_the_bound_are_put_back_and_go_on_where_they_were(
    folders, prompts, monkeypatch
):
    names, every = ["math", "reference"], prompts * 8
    together = MixtureDecoder(folders, "cpu", "float32", 1 << 30).decode(
        names, extrapolated, every, 40, [EOS], seed=1
    )
    monkeypatch.setattr("teachers.scoring.mixture.HEADROOM_TOKENS", 2)
    narrow = tight(folders, 24, rows=6)
    counts = rows_read(narrow, names)
    assert narrow.decode(names, extrapolated, every, 40, [EOS], seed=1) == together
    taken_up = [width for _, width in counts["math"] if width > max(map(len, prompts))]
    assert taken_up and max(taken_up) > 20  # a row was read again with what it had answered
    assert sum(rows for rows, _ in counts["math"]) == sum(answer.tokens for answer in together)


def test_caches_stay_within_the_bound(folders, prompts, monkeypatch):
    monkeypatch.setattr("teachers.scoring.mixture.HEADROOM_TOKENS", 2)
    names, decoder = ["math", "reference"], tight(folders, 24, rows=6)
    held: dict[str, int] = {}
    seen: list[tuple[int, int]] = []

    def measure(name):
        def hook(_, args, given, output):
            layers = output.past_key_values.layers
            held[name] = sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)
            rows, tokens = layers[0].keys.shape[0], layers[0].keys.shape[2]
            assert held[name] == rows * tokens * token_bytes(decoder.models[name])
            seen.append((rows, sum(held.values())))

        return hook

    for name, model in zip(names, decoder.loaded(names), strict=True):
        model.register_forward_hook(measure(name), with_kwargs=True)
    decoder.decode(names, extrapolated, prompts * 8, 40, [EOS], seed=1)
    assert max(size for rows, size in seen if rows > 1) <= decoder.cache_bytes
    assert max(size for _, size in seen) > decoder.cache_bytes / 4


def test_memory_does_not_grow_with_the_number_of_prompts(folders, prompts):
    def peak(copies):
        decoder = tight(folders, HEADROOM_TOKENS + 10, rows=6)
        decoder.loaded(["math", "reference"])
        with LiveStorage() as storage:
            decoder.decode(["math", "reference"], extrapolated, prompts * copies, 12, [EOS], seed=1)
        return storage.peak

    few, many = peak(2), peak(20)
    assert few > 100_000 and many < 1.1 * few


def test_teachers_take_turns(decoder, prompts):
    loaded = []
    for names in (["math", "reference"], ["reference"], ["code", "reference"], ["math", "reference"]):
        decoder.decode(names, alone if len(names) == 1 else extrapolated, prompts, 1, [EOS], None)
        loaded.append(set(decoder.models))
    assert all(len(models) <= MODELS_LOADED for models in loaded)
    assert loaded[0] == loaded[1] == {"math", "reference"}  # nothing gives way as long as there is room
    assert loaded[2:] == [{"code", "reference"}, {"math", "reference"}]
