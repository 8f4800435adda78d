"""Adapters in the shared scorer: each scores as its full model, on one base, which stays what it was."""

from __future__ import annotations

import pytest

from merging.exopd.objective import optimum_logp
from teachers.models import adapters
from teachers.registry.local import Registry
from teachers.registry.merged import merged_model
from teachers.scoring.scorer import Scored, SharedScorer
from tests.helpers.lora_adapters import write_adapter
from tests.helpers.messages import refuses
from tests.helpers.model_copies import noisy_copy
from tests.helpers.paths import STUDENT

torch = pytest.importorskip("torch")
pytest.importorskip("peft")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        "reference": str(STUDENT),
        "math": str(write_adapter(folder / "math", seed=1)),
        "code": str(write_adapter(folder / "code", seed=2, rank=2, targets=("q_proj", "up_proj"))),
        "full": str(noisy_copy(folder / "full", seed=5)),
        "rs": str(write_adapter(folder / "rs", seed=3, use_rslora=True, alpha_pattern={"q_proj": 3})),
    }


@pytest.fixture(scope="module")
def merged(folders, tmp_path_factory):
    """The same models, all full."""
    registry = Registry(tmp_path_factory.mktemp("home"))
    return {
        name: str(merged_model(STUDENT, path, registry)) if adapters.is_adapter(path) else path
        for name, path in folders.items()
    }


def shared(models, dtype="float32", base=str(STUDENT)):
    return SharedScorer(models, device="cpu", dtype=dtype, tokens_per_batch=256, base=base)


def rollout(seed: int, prompt: int, response: int) -> Scored:
    generator = torch.Generator().manual_seed(seed)
    return Scored(tuple(torch.randint(3, 99, (prompt + response,), generator=generator).tolist()), response)


SEQUENCES = [rollout(0, 7, 5), rollout(1, 3, 12), rollout(2, 20, 20), rollout(3, 9, 30)]


@pytest.fixture(scope="module")
def expected(merged):
    """Each model alone, whole, in a scorer of its own."""
    return {name: shared({name: path}, base=None).score(name, SEQUENCES) for name, path in merged.items()}


ORDERS = ["math reference", "reference math", "full math code reference rs", "code full code reference full"]


@pytest.mark.parametrize("order", ORDERS)
def test_scores_are_those_of_the_full_models_in_any_order(folders, expected, order):
    scorer = shared(folders)
    for name in (order + " " + order).split():
        for row, other in zip(scorer.score(name, SEQUENCES), expected[name], strict=True):
            # float32 sums in another order: one of 8.3 nats differs by 1.3e-5 on a processor with AMX
            torch.testing.assert_close(row, other, atol=1e-5, rtol=4e-6)
    assert len(scorer.seats) == 1
    # the adapters are no small matter, so equal scores are no accident
    assert max(abs(a - b).max() for a, b in zip(expected["math"], expected["reference"], strict=True)) > 0.1


def test_the_reference_is_bit_for_bit_the_base_and_an_untrained_adapter_gives_zero_reward(folders, tmp_path):
    untrained = str(write_adapter(tmp_path / "untrained", scale=0.0))
    scorer = shared({**folders, "untrained": untrained})
    alone = shared({"only": str(STUDENT)}).score("only", SEQUENCES)
    scorer.score("math", SEQUENCES)
    for name in ("reference", "untrained"):
        for row, other in zip(scorer.score(name, SEQUENCES), alone, strict=True):
            assert torch.equal(row, other)


@pytest.mark.parametrize(
    "models", [["math", "reference"], ["code", "full"], ["full", "rs"], ["reference", "math"]]
)
@pytest.mark.parametrize("top_k", [None, 5])
def test_whole_distributions_are_those_of_the_full_models(folders, merged, models, top_k):
    def extrapolated(teacher, reference):
        return optimum_logp(teacher, reference, 1.5)

    found = shared(folders).targets(models, extrapolated, SEQUENCES, top_k=top_k)
    slow = shared(merged, base=None).targets(models, extrapolated, SEQUENCES, top_k=top_k)
    for own, other in zip(found, slow, strict=True):
        for name in ("teacher_logp_T", "reference_logp_T", "log_q_TV"):
            torch.testing.assert_close(getattr(own, name), getattr(other, name), atol=5e-5, rtol=0)


def test_the_base_may_be_none_of_the_models(folders, expected):
    """A reference of its own, and teachers that are adapters on the student."""
    scorer = shared({"reference": folders["full"], "math": folders["math"]})
    for name, other in (("math", "math"), ("reference", "full"), ("math", "math")):
        for row, wanted in zip(scorer.score(name, SEQUENCES), expected[other], strict=True):
            torch.testing.assert_close(row, wanted, atol=1e-5, rtol=0)
    assert set(scorer.passes) == {"math", "reference"}


def held_bytes(scorer) -> int:
    """Bytes of all tensors that the scorer holds, each piece of memory once."""
    held = [value for weights in scorer.weights.values() for value in weights.values()]
    held += [value for seat in scorer.seats for value in seat.module.state_dict().values()]
    pieces = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in held}
    return sum(pieces.values())


def test_eight_adapters_cost_eight_adapters_and_not_eight_models(tmp_path):
    paths = {f"d{i}": str(write_adapter(tmp_path / f"{i}", seed=i, rank=2)) for i in range(8)}
    alone, eight = shared({"reference": str(STUDENT)}), shared({"reference": str(STUDENT), **paths})
    for name in (*paths, "reference", *paths):  # no turn makes copies
        eight.score(name, SEQUENCES[:1])
    own = sum(4 * adapters.fingerprint(path).parameters for path in paths.values())
    assert held_bytes(eight) == held_bytes(alone) + own
    assert own < 2 * held_bytes(alone)


def test_adapters_have_the_number_format_that_is_asked_for(folders, expected):
    scorer = shared(folders, dtype="bfloat16")
    assert {value.dtype for value in scorer.module.state_dict().values()} == {torch.bfloat16}
    (row,) = scorer.score("math", SEQUENCES[-1:])
    assert 0 < (row - expected["math"][-1]).abs().max() < 0.5


def test_an_adapter_without_a_base_is_refused(folders):
    with refuses("adapters ['math']", "model", error=ValueError):
        shared({"reference": str(STUDENT), "math": folders["math"]}, base=None)


def test_passes_are_counted_by_model(folders):
    scorer = shared(folders)
    scorer.score("math", SEQUENCES)
    scorer.score("code", SEQUENCES[:2])
    assert scorer.passes == {"math": 4, "code": 2}


def test_the_canary_notices_an_adapter_that_was_written_to(folders):
    scorer = shared(folders)
    name = scorer.adapter_of["math"]
    layer = next(m for key, m in scorer.seat_of["math"].module.named_modules() if key.endswith("q_proj"))
    with torch.no_grad():
        layer.lora_B[name].weight.add_(0.3)
    for _ in range(2):  # a second try is checked again
        with refuses("model 'math'", "weights", error=ValueError):
            scorer.score("math", SEQUENCES)
    scorer.score("code", SEQUENCES)  # another one is right
    scorer.score("reference", SEQUENCES)
