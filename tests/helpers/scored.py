"""Token sequences for the tests of scorers."""

from __future__ import annotations

import torch

from teachers.scoring.scorer import Scored


def sequence(seed: int, prompt: int, response: int) -> Scored:
    """Random tokens of the demo student's vocabulary."""
    generator = torch.Generator().manual_seed(seed)
    return Scored(tuple(torch.randint(3, 99, (prompt + response,), generator=generator).tolist()), response)


SEQUENCES = [sequence(0, 7, 5), sequence(1, 3, 12), sequence(2, 20, 1), sequence(3, 1, 9), sequence(4, 7, 5)]
