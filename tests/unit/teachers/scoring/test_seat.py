"""Copies of weights to a device, and its memory given back; a CPU stands in for the device."""

from __future__ import annotations

import pytest

import teachers.scoring.scorer as scorer_module
from teachers.scoring.scorer import SharedScorer
from teachers.scoring.staging import Staging, staging_for
from tests.helpers.lora_adapters import write_adapter
from tests.helpers.model_copies import noisy_copy
from tests.helpers.paths import STUDENT
from tests.helpers.scored import SEQUENCES
from tests.helpers.training_engines import write_causal_model

torch = pytest.importorskip("torch")

CPU = torch.device("cpu")


def test_a_cpu_needs_no_copies_and_a_gpu_does():
    assert staging_for(CPU) is None
    assert staging_for(torch.device("cuda:1")).device.index == 1


@pytest.mark.parametrize("buffer_bytes", [1, 12, 40, 10_000])
def test_every_byte_arrives_however_small_the_buffers(buffer_bytes):
    generator = torch.Generator().manual_seed(0)
    sources = {
        "matrix": torch.randn(7, 5, generator=generator),
        "half": torch.randn(11, generator=generator).bfloat16(),
        "number": torch.tensor(2.5),
        "none": torch.zeros(0, 3),
    }
    targets = {name: torch.full_like(source, 9) for name, source in sources.items()}
    Staging(CPU, buffer_bytes).copy(sources, targets)
    assert all(torch.equal(targets[name], source) for name, source in sources.items())


def test_weights_that_share_their_memory_are_copied_once():
    staging, weight = Staging(CPU, 1000), torch.arange(3.0)
    target = torch.zeros(3)
    staging.copy({"head": weight, "embedding": weight}, {"head": target, "embedding": target})
    assert staging.sent == 1 and torch.equal(target, weight)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    pytest.importorskip("peft")
    folder = tmp_path_factory.mktemp("models")
    return {
        "reference": str(STUDENT),
        "math": str(noisy_copy(folder / "math", seed=5)),
        "adapter": str(write_adapter(folder / "adapter", seed=1)),
    }


@pytest.fixture
def copying(monkeypatch):
    """Scorers that copy weights as on a GPU."""
    monkeypatch.setattr(scorer_module, "staging_for", lambda device: Staging(device, 1 << 16))


def made(models, **more):
    return SharedScorer(models, "cpu", "float32", 64, base=str(STUDENT), **more)


def addresses(scorer: SharedScorer) -> set[int]:
    return {weight.data_ptr() for weights in scorer.weights.values() for weight in weights.values()}


def test_copied_weights_read_as_the_hosts_own_do(models, copying, monkeypatch):
    """Each swap and each return of the memory is followed by a canary, too."""
    scorer = made(models)
    monkeypatch.undo()
    alone = made(models)
    host = {name: {key: w.clone() for key, w in weights.items()} for name, weights in scorer.weights.items()}
    for name in ("math", "reference", "adapter", "math", "adapter"):
        for row, expected in zip(scorer.score(name, SEQUENCES), alone.score(name, SEQUENCES), strict=True):
            torch.testing.assert_close(row, expected, atol=1e-6, rtol=0)
        if name != "reference":
            scorer.release()
    for name, weights in host.items():
        assert all(torch.equal(scorer.weights[name][key], value) for key, value in weights.items())


def test_between_steps_the_module_holds_the_hosts_weights(models, copying):
    scorer = made(models)
    (seat,) = scorer.seats
    scorer.score("math", SEQUENCES)
    in_module = {value.data_ptr() for name, value in scorer.module.state_dict().items() if "lora" not in name}
    assert not in_module & addresses(scorer), "a copy of its own"
    assert scorer.held() == {"math"}
    scorer.release()
    in_module = {value.data_ptr() for name, value in scorer.module.state_dict().items() if "lora" not in name}
    assert in_module <= addresses(scorer) and seat.places is None, "no memory of the device's is held"
    assert (scorer.releases, scorer.held()) == (1, frozenset())
    swaps = scorer.swaps
    scorer.score("math", SEQUENCES)
    assert scorer.swaps == swaps + 1 and scorer.held() == {"math"}
    scorer.score("adapter", SEQUENCES)
    assert scorer.held() == {"reference", "adapter"}, "an adapter is read without a swap of its base"


def test_a_tied_output_layer_stays_tied_on_the_device(tmp_path, copying):
    models = {f"m{n}": str(write_causal_model(tmp_path / f"m{n}", tied=True)) for n in range(2)}
    scorer = SharedScorer(models, "cpu", "float32", 64)
    for _ in range(2):
        scorer.score("m1", SEQUENCES)
        module = scorer.module
        assert module.lm_head.weight.data_ptr() == module.model.embed_tokens.weight.data_ptr()
        scorer.release()


def test_on_a_cpu_giving_back_is_counted_and_changes_nothing(models):
    scorer = made(models)
    before = scorer.score("math", SEQUENCES)
    swaps = scorer.swaps
    scorer.release()
    assert (scorer.releases, scorer.held()) == (1, {"math"})
    assert all(torch.equal(a, b) for a, b in zip(scorer.score("math", SEQUENCES), before, strict=True))
    assert scorer.swaps == swaps, "the weights were still in"
