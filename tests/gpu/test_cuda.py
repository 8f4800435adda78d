"""The same code on a GPU: the scorer against the CPU's numbers, and the real command.

`python -m pytest -m gpu` on a machine with one and the versions of `requirements/gpu.txt`; elsewhere they are
skipped. The scorer's have passed on an H100; the command's has not been run.
"""

from __future__ import annotations

import json

import pytest
import yaml

from teachers.scorer import SharedScorer
from tests.contracts.test_scorers import SEQUENCES
from tests.e2e_cpu.processes import left_behind, run_to_end
from tests.e2e_cpu.test_merge import small_config
from tests.unit.model_copies import STUDENT, noisy_copy

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
