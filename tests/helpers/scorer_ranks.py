"""A sharded scorer on several gloo ranks, without Ray: what every rank answers, holds and reads.

`score_on` starts the ranks as processes, each of which runs this module.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from teachers.scoring.scored import Scored
from tests.helpers.gloo_ranks import run_ranks

SECONDS = 300
SETTLED_SECONDS = 5
Call = tuple[str, Sequence[Sequence[Scored]]]
"""A model, and the sequences of each rank."""


@dataclass(frozen=True)
class RankReport:
    """What one rank saw."""

    scores: list[list[list[float]]]
    """By call and sequence: logp_T."""
    held: list[int]
    """Bytes of tensors that the scorer added: once it is there, after each call, and after `close`."""
    swaps: int
    bytes_read: int
    passes: dict[str, int]
    """Sequences of this rank, by model."""


def score_on(
    models: Mapping[str, str],
    calls: Sequence[Call],
    most_held: Sequence[int],
    folder: Path,
    tokens_per_batch: int,
    ranks: int = 2,
) -> list[RankReport]:
    """Each rank's report. Fails with a rank's output.

    Where a rank holds more than the call's `most_held` bytes, it looks again for some seconds: a thread of
    gloo drops a gather's tensors a moment after it has said that the gather is done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    order = folder / "order.json"
    plain = [
        [model, [[[s.token_ids, s.response_tokens] for s in own] for own in shares]]
        for model, shares in calls
    ]
    order.write_text(json.dumps([dict(models), tokens_per_batch, plain, list(most_held)]))
    run_ranks(ranks, "tests.helpers.scorer_ranks", [str(order), str(folder)], folder, SECONDS)
    files = [folder / f"report-{rank}.json" for rank in range(ranks)]
    return [RankReport(**json.loads(file.read_text())) for file in files]


def main() -> None:
    """One rank."""
    import torch.distributed as dist

    from teachers.scoring.sharded.scorer import ShardedScorer

    models, tokens_per_batch, calls, most_held = json.loads(Path(sys.argv[1]).read_text())
    rank = int(os.environ["RANK"])
    dist.init_process_group("gloo")
    before = held_bytes()
    scorer = ShardedScorer(models, "cpu", "float32", tokens_per_batch)
    scores, held = [], [held_bytes() - before]
    for (model, shares), most in zip(calls, most_held, strict=True):
        rows = scorer.score(model, [Scored(tuple(ids), response) for ids, response in shares[rank]])
        scores.append([row.tolist() for row in rows])
        del rows
        held.append(settled_bytes(before + most) - before)
    scorer.close()
    held.append(held_bytes() - before)
    report = {"scores": scores, "held": held, "swaps": scorer.swaps, "bytes_read": scorer.bytes_read,
              "passes": dict(scorer.passes)}  # fmt: skip
    Path(sys.argv[2], f"report-{rank}.json").write_text(json.dumps(report))
    dist.destroy_process_group()


def settled_bytes(most: int) -> int:
    """`held_bytes`, once it is at most `most`, or what it is after some seconds."""
    end = time.monotonic() + SETTLED_SECONDS
    while (held := held_bytes()) > most and time.monotonic() < end:
        time.sleep(0.05)
    return held


def held_bytes() -> int:
    """Bytes of the storage of all tensors that are alive in this process."""
    import torch
    from torch.distributed.tensor import DTensor

    gc.collect()
    storages: dict[int, Any] = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), torch.Tensor):
            local = thing.to_local() if isinstance(thing, DTensor) else thing
            if local.device.type == "cpu":
                storage = local.untyped_storage()
                storages[id(storage)] = storage
    return sum(storage.nbytes() for storage in storages.values())


if __name__ == "__main__":
    main()
