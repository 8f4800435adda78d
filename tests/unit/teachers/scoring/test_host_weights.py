"""Weights that processes share: mapped from their own files, or from one that the first of them writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from teachers.scoring.host_weights import private_bytes, shared_weights
from teachers.scoring.scorer import Scored, SharedScorer
from tests.helpers.model_copies import noisy_copy
from tests.helpers.paths import ROOT, STUDENT
from tests.helpers.training_engines import write_causal_model

torch = pytest.importorskip("torch")

WEIGHTS = {"a": (300, 100), "b": (7,)}


def private(seed: int = 0) -> dict:
    """Two weights of this process's own, and one of them under a second name."""
    generator = torch.Generator().manual_seed(seed)
    made = {name: torch.randn(shape, generator=generator) for name, shape in WEIGHTS.items()}
    return {**made, "tied": made["a"]}


def test_private_weights_are_written_once_and_mapped(tmp_path):
    own = private()
    assert private_bytes(own) == 4 * (300 * 100 + 7), "the tied weight counts once"
    mapped = shared_weights(own, tmp_path / "made" / "model.safetensors")
    assert private_bytes(mapped) == 0
    assert mapped.keys() == own.keys() and all(torch.equal(mapped[name], own[name]) for name in own)
    assert mapped["tied"].data_ptr() == mapped["a"].data_ptr()
    written = (tmp_path / "made" / "model.safetensors").stat()
    again = shared_weights(private(), tmp_path / "made" / "model.safetensors")
    assert (tmp_path / "made" / "model.safetensors").stat().st_mtime_ns == written.st_mtime_ns
    assert private_bytes(again) == 0 and torch.equal(again["a"], own["a"])


def test_mapped_weights_stay_where_they_are(tmp_path):
    mapped = shared_weights(private(), tmp_path / "first.safetensors")
    assert shared_weights(mapped, tmp_path / "second.safetensors") is mapped
    assert not (tmp_path / "second.safetensors").exists()


def test_without_a_file_nothing_changes():
    own = private()
    assert shared_weights(own, None) is own


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return {"reference": str(STUDENT), "math": str(noisy_copy(tmp_path_factory.mktemp("m") / "m", seed=5))}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_scorer_reads_the_same_from_shared_weights(models, dtype, tmp_path):
    """The demo's files hold float32: in bfloat16 they are written anew. The canary compares what was loaded
    with what is read after each swap."""
    rollouts = [Scored((3, 4, 5, 6, 7), 3), Scored((9, 8, 7), 2)]
    own = SharedScorer(models, "cpu", dtype, 64)
    shared = SharedScorer(models, "cpu", dtype, 64, shared=tmp_path)
    for name in ("math", "reference", "math"):
        for row, expected in zip(shared.score(name, rollouts), own.score(name, rollouts), strict=True):
            assert torch.equal(row, expected)
    assert all(private_bytes(weights) == 0 for weights in shared.weights.values())
    assert private_bytes(shared.module.state_dict()) == 0, "the module on a CPU holds the host's weights"
    written = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert written == ([] if dtype == "float32" else ["math.safetensors", "reference.safetensors"])


# -------------------------------------------------------------------------- two processes, measured

CHILD = """
import json, sys
from pathlib import Path
from teachers.scoring.scorer import Scored, SharedScorer

rollouts = [Scored(tuple(range(40)), 20)]
tiny, stages = json.loads(sys.argv[1])

def read(models, shared):
    scorer = SharedScorer(models, "cpu", "float32", 64, shared=shared and Path(shared))
    for name in models:
        scorer.score(name, rollouts)
    return scorer

kept = [read(tiny, None)]  # what the first load and pass import is not the models' memory
for models, shared in [({}, None), *stages]:
    if models:
        kept = [read(models, shared)]
    print("ready", flush=True)
    sys.stdin.readline()
"""


class Child:
    """A process with a scorer, which goes from stage to stage when it is told."""

    def __init__(self, work: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, work], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def reached(self) -> None:
        assert self.process.stdout.readline() == "ready\n"

    def go_on(self) -> None:
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def private_bytes(self) -> int:
        return psutil.Process(self.process.pid).memory_full_info().uss


@pytest.mark.timeout(300)
def test_a_second_process_does_not_hold_the_weights_again(tmp_path):
    """Three teachers of 12.1 million weights, 145 MB in float32, which both processes have read."""
    sizes = {"vocabulary": 2048, "hidden": 512, "layers": 6}
    whole = {f"t{n}": write_causal_model(tmp_path / f"whole{n}", **sizes) for n in range(3)}
    halves = {f"t{n}": write_half(tmp_path / f"half{n}", whole[f"t{n}"]) for n in range(3)}
    whole, halves = ({name: str(path) for name, path in paths.items()} for paths in (whole, halves))
    total = 3 * 4 * parameters(Path(whole["t0"]))
    assert 135e6 < total < 150e6
    stages = [(whole, None), (halves, str(tmp_path / "shared")), (halves, None)]
    work = json.dumps([{"tiny": str(write_causal_model(tmp_path / "tiny"))}, stages])
    children = [Child(work), Child(work)]
    try:
        held = []
        for _ in range(1 + len(stages)):
            for child in children:
                child.reached()
            held.append([child.private_bytes() for child in children])
            for child in children:
                child.go_on()
    finally:
        for child in children:
            child.process.kill()
            child.process.wait()
    before, *after = held
    grown = [[now - earlier for now, earlier in zip(stage, before, strict=True)] for stage in after]
    assert max(grown[0]) < 0.2 * total, "mapped from their own files"
    # the allocator may keep what the conversion of one model at a time took
    assert max(grown[1]) < 0.45 * total, "converted once, by one of the two"
    assert min(grown[2]) > 0.9 * total, "what it would be without"


def write_half(target: Path, source: Path) -> Path:
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16).save_pretrained(target)
    return target


def parameters(folder: Path) -> int:
    from safetensors.torch import load_file

    return sum(value.numel() for value in load_file(folder / "model.safetensors").values())
