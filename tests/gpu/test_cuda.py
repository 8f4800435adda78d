"""The same code on a GPU: the scorer against the CPU's numbers, and the real command.

`python -m pytest -m gpu` on a machine with one and the versions of `requirements/gpu.txt`; elsewhere they are
skipped. That of the scorer's log-probabilities has passed on an H100, with weights that were copied without
pinned buffers; the others have not been run.
"""

from __future__ import annotations

import json

import pytest
import yaml

from teachers.scoring.scorer import SharedScorer
from teachers.scoring.sharded.scorer import ShardedScorer
from tests.helpers.gloo_ranks import one_rank
from tests.helpers.model_copies import noisy_copy
from tests.helpers.paths import STUDENT
from tests.helpers.processes import left_behind, run_to_end
from tests.helpers.scored import SEQUENCES
from tests.helpers.small_merge import small_config

torch = pytest.importorskip("torch")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {"reference": str(STUDENT), "teacher": str(noisy_copy(folder / "teacher", seed=5))}


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-3), ("bfloat16", 0.25)])
def test_the_scorer_reads_what_it_reads_on_a_cpu(models, dtype, tolerance):
    """Two swaps each way, so that weights have come back from main memory; natural logs a token."""
    on_cpu = SharedScorer(models, device="cpu", dtype="float32", tokens_per_batch=64)
    on_gpu = SharedScorer(models, device="cuda", dtype=dtype, tokens_per_batch=64)
    for name in ("teacher", "reference", "teacher", "reference"):
        for ours, theirs in zip(on_gpu.score(name, SEQUENCES), on_cpu.score(name, SEQUENCES), strict=True):
            torch.testing.assert_close(ours.float().cpu(), theirs, atol=tolerance, rtol=0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_scorer_gives_the_devices_memory_back_and_takes_it_again(models, dtype, tmp_path):
    """The demo's files hold float32, so bfloat16 is converted in host memory first."""
    scorer = SharedScorer(models, device="cuda:0", dtype=dtype, tokens_per_batch=64, shared=tmp_path)
    before = [scorer.score(name, SEQUENCES) for name in ("teacher", "reference")]
    held = torch.cuda.memory_allocated()
    weights = sum(value.numel() * value.element_size() for value in scorer.weights["teacher"].values())
    scorer.release()
    assert held - torch.cuda.memory_allocated() >= weights
    assert scorer.held() == frozenset()
    again = [scorer.score(name, SEQUENCES) for name in ("teacher", "reference")]
    for row, expected in zip(again[0] + again[1], before[0] + before[1], strict=True):
        torch.testing.assert_close(row, expected, atol=1e-6 if dtype == "float32" else 0.02, rtol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-3), ("bfloat16", 0.25)])
def test_the_sharded_scorer_reads_what_the_shared_one_reads_on_a_cpu(models, dtype, tolerance):
    """On one device, and with nothing of the models on it once it is closed."""
    on_cpu = SharedScorer(models, device="cpu", dtype="float32", tokens_per_batch=64)
    with one_rank("nccl"):
        before = torch.cuda.memory_allocated()
        sharded = ShardedScorer(models, device="cuda", dtype=dtype, tokens_per_batch=64)
        for name in ("teacher", "reference", "teacher"):
            for ours, theirs in zip(
                sharded.score(name, SEQUENCES), on_cpu.score(name, SEQUENCES), strict=True
            ):
                torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)
        weights = 829_312 * getattr(torch, dtype).itemsize
        assert torch.cuda.memory_allocated() - before >= weights
        sharded.close()
        assert torch.cuda.memory_allocated() - before < weights / 10


def test_a_merge_runs_to_its_report(tmp_path):
    """The end-to-end merge of the CPU, on one GPU."""
    config = small_config(tmp_path, name="cuda", baselines=["average", "opd"])
    text = yaml.safe_load(config.read_text())
    text["hardware"] = {"device": "cuda", "gpus": 1, "rollout_memory_fraction": 0.3}
    config.write_text(yaml.safe_dump(text, sort_keys=False))
    log, run = tmp_path / "cuda.log", tmp_path / "runs" / "cuda"
    assert run_to_end("merge", str(config), home=tmp_path, log=log, timeout=1500) == 0, log.read_text()[
        -3000:
    ]
    assert left_behind(tmp_path) == []
    first, *_, last = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for domain in ("math", "code"):
        # trainer (bfloat16 autocast) and scorer (bfloat16) need not agree to the last bit
        assert first[f"teacher/{domain}/student_reference_distance"] < 0.2
        assert f"teacher/{domain}/kl_to_optimum" in last
    assert (run / "manifest.json").exists()
