"""Two ranks that share every model give what one process that holds it gives: values, memory, bytes read.

It is one test, since tests of one module may run in several processes, and each would start the ranks again.
"""

from __future__ import annotations

import pytest

from teachers.scoring.scorer import SharedScorer
from tests.helpers.model_copies import noisy_copy
from tests.helpers.other_models import qwen3_copy
from tests.helpers.paths import STUDENT
from tests.helpers.scored import SEQUENCES, sequence
from tests.helpers.scorer_ranks import score_on

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.timeout(600)

LONG = sequence(5, 40, 30)
CALLS = [
    ("reference", (SEQUENCES[:4], SEQUENCES[4:])),  # two passes on one rank, one on the other
    ("math", (SEQUENCES, [])),  # a rank without rollouts
    ("code", ([SEQUENCES[0]], [*SEQUENCES[1:], LONG])),  # another architecture, a sequence above the limit
    ("code", ([], [])),  # nobody has any
    ("reference", ([], [LONG])),
    ("math", (SEQUENCES[2:], SEQUENCES[:2])),
]
"""A model, and the sequences of both ranks."""
PARAMETERS = {"reference": 829_312, "math": 829_312, "code": 15_540}
STORED = {"reference": 4, "math": 4, "code": 2}
"""Bytes of a number in the files."""
REST = 2000
"""Bytes: positions of the rotary embeddings, padding of rows that do not divide."""


def half_of(model: str) -> int:
    """Bytes of half of its weights, in float32."""
    return 4 * PARAMETERS[model] // 2


def test_two_ranks_read_what_the_shared_scorer_reads(tmp_path):
    models = {"reference": str(STUDENT), "math": str(noisy_copy(tmp_path / "math", seed=1)),
              "code": str(qwen3_copy(tmp_path / "code"))}  # fmt: skip
    reports = score_on(models, CALLS, [half_of(model) + REST for model, _ in CALLS], tmp_path / "ranks", 40)
    shared = SharedScorer(models, "cpu", "float32", 40)
    for rank, report in enumerate(reports):
        for (model, shares), rows in zip(CALLS, report.scores, strict=True):
            expected = shared.score(model, list(shares[rank]))
            assert len(rows) == len(expected)
            for row, one in zip(rows, expected, strict=True):
                torch.testing.assert_close(torch.tensor(row), one, atol=1e-5, rtol=0)
        check_memory(report.held)
        assert report.swaps == 3 + 5  # once each for the canary; then one call in six finds its model there
        assert report.passes == {
            name: sum(len(shares[rank]) for model, shares in CALLS if model == name) for name in models
        }
    assert reports[0].passes != reports[1].passes
    check_bytes_read([report.bytes_read for report in reports])


def check_memory(held: list[int]) -> None:
    """A rank holds half of the model that it reads, in float32, and nothing of any before and after."""
    made, *after_calls, closed = held
    assert 0 <= made < REST and 0 <= closed < REST
    for (model, _), bytes_held in zip(CALLS, after_calls, strict=True):
        assert half_of(model) <= bytes_held <= half_of(model) + REST, model


def check_bytes_read(by_rank: list[int]) -> None:
    """Every load reads each number once, on one rank or the other, as wide as it is stored."""
    loads = ["reference", "math", "code", "reference", "math", "code", "reference", "math"]
    assert sum(by_rank) == sum(STORED[model] * PARAMETERS[model] for model in loads)
    assert abs(by_rank[0] - by_rank[1]) < 0.02 * sum(by_rank)
