"""One training step on one rank and on two: verl's FSDP2 workers over gloo, with several micro-batches.

The rows are the same, so whatever Protege reads of verl's metrics must be too, and so must the weights that
are exported. The two ranks' second step starts from their first one's checkpoint, as a continued run does.
It is one test, since tests of one module may run in several processes, and each would train again.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from merging.baselines.sft import METRICS
from merging.training.metrics import grpo_metrics, step_metrics
from tests.helpers.engine_ranks import LORA, ROWS, SCALES, Trial, train_on
from tests.helpers.lora_adapters import write_adapter
from tests.helpers.model_copies import STUDENT, weights_of
from trainer.export import export

pytestmark = [pytest.mark.timeout(1200), pytest.mark.filterwarnings("ignore")]

BEGUN, ADAPTER = ", begun", ", adapter"
KINDS = (
    "sampled", "topk", "grpo", "sft",
    *(kind + ADAPTER for kind in ("sampled", "topk", "full", "grpo", "sft", "grpo" + BEGUN)),
)  # fmt: skip
UNEQUAL = ((0, 1, 4, 6), (2, 3, 5, 7))
"""Rows of the two ranks: 186 and 242 tokens, 3 and 2 of `math`."""

Metrics = dict[str, float]
Weights = dict[str, np.ndarray]


def test_two_ranks_train_measure_and_export_what_one_does(tmp_path):
    # as our own export has it: dropout would draw other numbers on each rank
    begun = str(write_adapter(tmp_path / "begun", rank=LORA.rank, alpha=LORA.alpha, lora_dropout=0.0))

    def trials(name: str, shares: tuple[tuple[int, ...], ...], steps: tuple[int, ...]) -> list[Trial]:
        return [
            Trial(
                kind.removesuffix(ADAPTER).removesuffix(BEGUN), steps, str(tmp_path / name / kind), shares,
                lora=kind.endswith(ADAPTER), begun=begun if BEGUN in kind else None,
            )
            for kind in KINDS
        ]  # fmt: skip

    one = train_on(1, trials("one", (tuple(range(ROWS)),), (1, 2)), tmp_path / "one")
    copies = Trial("sampled", (1, 2), str(tmp_path / "two" / "copies"), UNEQUAL, shards=1)
    two = train_on(
        2, [*trials("two", UNEQUAL, (1,)), *trials("two", UNEQUAL, (2,)), copies], tmp_path / "two"
    )
    for place, kind in enumerate(KINDS):
        steps = [*two[place], *two[len(KINDS) + place]]
        for step in (1, 2):
            check_step(kind, step, one[place][step - 1], steps[step - 1])
        before = {} if kind.endswith(ADAPTER) else weights_of(STUDENT)
        if BEGUN in kind:
            before = load_file(Path(begun) / "adapter_model.safetensors")
        check_weights(kind, before, *(exported(tmp_path, ranks, kind) for ranks in ("one", "two")))
    # two ranks with a whole copy of the weights each
    alone, both = exported(tmp_path, "one", "sampled"), exported(tmp_path, "two", "copies")
    check_weights("copies", weights_of(STUDENT), alone, both)


def check_step(kind: str, step: int, one: Metrics, two: Metrics) -> None:
    """A worker's metrics of the same rows on one rank and on two, as Protege reads them."""
    is_merge = kind.startswith(("sampled", "topk", "full"))
    if kind.startswith("sft"):
        lines = [
            {name: raw[key.removeprefix("train/")] for name, key in METRICS.items()} for raw in (one, two)
        ]
    else:
        logged = [{f"actor/{name}": value for name, value in raw.items()} for raw in (one, two)]
        lines = [
            step_metrics(step, raw, SCALES) if is_merge else grpo_metrics(step, raw, 48) for raw in logged
        ]
    assert lines[1] == pytest.approx(lines[0], rel=1e-4, abs=1e-6), kind
    assert lines[1]["gradient_norm"] > 0 and {"loss", "learning_rate"} & lines[1].keys()
    if is_merge:
        assert (lines[1]["teacher/math/sequences"], lines[1]["teacher/code/sequences"]) == (5, 3)
        assert lines[1]["teacher/math/length"] * 5 == pytest.approx(100)
        assert lines[1]["teacher/code/token_share"] == pytest.approx(72 / 172)


def exported(root: Path, ranks: str, kind: str) -> Path:
    checkpoints, target = root / ranks / kind, root / f"{ranks}-{kind}-exported"
    lora = LORA if kind.endswith(ADAPTER) else None
    return target if target.exists() else export(checkpoints, 2, STUDENT, target, lora)


def check_weights(kind: str, before: Weights, one: Path, two: Path) -> None:
    """Two steps of 1e-3: weights move by up to 2e-3, and most by about as much."""
    found, expected = (load_file(next(folder.glob("*.safetensors"))) for folder in (two, one))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert np.abs(value - before.get(name, 0)).max() > 1e-4, f"{kind}: {name} was not trained"
        assert np.abs(value - found[name]).max() < 0.05 * 2e-3, f"{kind}: {name}"
