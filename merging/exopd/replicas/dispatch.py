"""Which replica of the shared scorer reads what next.

Requests wait by what is asked of them, in the order in which they came. A replica that has nothing to do gets
a turn at once if anything waits, so all replicas work as long as there is work for them:

- It goes on with what it can read without a swap of weights, where such work waits.
- Else it swaps, to the work with the most waiting tokens for each replica that holds its models.
- Work that was passed over `PATIENCE` times for each replica goes first, whoever holds its models. So nothing
  waits for ever, and work that never ends costs each replica about one swap in so many turns.

A turn takes the oldest requests of one work: their share of all waiting tokens of this work, by the number of
replicas, and never less than one forward pass. So a burst is spread over the replicas in few large turns at
first, and in small ones at its end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

PATIENCE = 8
"""Turns of other work, for each replica, that a waiting request lets pass."""

Sent = TypeVar("Sent")
"""What travels with a request; the dispatcher does not look at it."""


@dataclass(frozen=True)
class Work:
    """What is asked of a sequence; requests that ask the same are answered together.

    Log-probabilities under one model, or, with a `reward_scale`, the objective's optimum for the models that
    it reads, in this order: of the whole vocabulary or of its `top_k` likeliest tokens.
    """

    models: tuple[str, ...]
    reward_scale: float | None = None
    top_k: int | None = None


@dataclass(frozen=True)
class Request(Generic[Sent]):
    """A sequence of so many tokens that waits."""

    work: Work
    tokens: int
    sent: Sent


@dataclass(frozen=True)
class Turn(Generic[Sent]):
    """What a replica is to answer now."""

    replica: int
    work: Work
    requests: tuple[Request[Sent], ...]


@dataclass
class _Queue(Generic[Sent]):
    """Requests of one work."""

    waiting: deque[Request[Sent]] = field(default_factory=deque)
    tokens: int = 0
    passed_over: int = 0
    """Turns of other work since this one had its last."""

    def add(self, request: Request[Sent]) -> None:
        self.waiting.append(request)
        self.tokens += request.tokens

    def take(self, tokens: int) -> tuple[Request[Sent], ...]:
        """The oldest requests of at most so many tokens, one at least."""
        taken = [self.waiting.popleft()]
        room = tokens - taken[0].tokens
        while self.waiting and self.waiting[0].tokens <= room:
            taken.append(self.waiting.popleft())
            room -= taken[-1].tokens
        self.tokens -= sum(request.tokens for request in taken)
        self.passed_over = 0
        return tuple(taken)


class Dispatcher(Generic[Sent]):
    """Waiting requests, and the replicas that have nothing to do.

    Args:
        replicas: how many there are; they are numbered from 0.
        tokens_per_batch: of one forward pass; a turn is never cut below it.
    """

    def __init__(self, replicas: int, tokens_per_batch: int) -> None:
        self.tokens_per_batch = tokens_per_batch
        self.queues: dict[Work, _Queue[Sent]] = {}
        """By work, in the order in which each began to wait; none is empty."""
        self.holds: list[frozenset[str]] = [frozenset()] * replicas
        """Models that each replica can read without a swap, or will, once its turn has ended."""
        self.idle = set(range(replicas))

    def add(self, request: Request[Sent]) -> None:
        """A request begins to wait."""
        self.queues.setdefault(request.work, _Queue()).add(request)

    def finished(self, replica: int, holds: Iterable[str]) -> None:
        """A replica has ended its turn, and can read these models without a swap."""
        self.holds[replica] = frozenset(holds)
        self.idle.add(replica)

    def turns(self) -> list[Turn[Sent]]:
        """A turn for every idle replica, or as many as there is work for; they begin now."""
        turns = []
        while self.idle and self.queues:
            turns.append(self._turn(*self._match()))
        return turns

    def drain(self) -> list[Request[Sent]]:
        """Everything that waits, which waits no longer."""
        waiting = [request for queue in self.queues.values() for request in queue.waiting]
        self.queues.clear()
        return waiting

    def _match(self) -> tuple[int, Work]:
        """The next idle replica, and what it does."""
        for work, queue in self.queues.items():
            if queue.passed_over >= PATIENCE * len(self.holds):
                return self._nearest(work), work
        for work in self.queues:
            replica = self._nearest(work)
            if self._swaps(replica, work) == 0:
                return replica, work
        work = max(self.queues, key=self._pressure)
        return self._nearest(work), work

    def _nearest(self, work: Work) -> int:
        """The idle replica with the fewest swaps before this work; of those, one that holds least else."""
        return min(
            sorted(self.idle), key=lambda replica: (self._swaps(replica, work), len(self.holds[replica]))
        )

    def _swaps(self, replica: int, work: Work) -> int:
        return len(set(work.models) - self.holds[replica])

    def _pressure(self, work: Work) -> float:
        """Waiting tokens for each replica that holds the models, a newcomer counted."""
        holders = sum(self.holds[replica].issuperset(work.models) for replica in range(len(self.holds)))
        return self.queues[work].tokens / (1 + holders)

    def _turn(self, replica: int, work: Work) -> Turn[Sent]:
        queue = self.queues[work]
        share = -(-queue.tokens // len(self.holds))
        requests = queue.take(max(self.tokens_per_batch, share))
        if not queue.waiting:
            del self.queues[work]
        for other, passed in self.queues.items():
            passed.passed_over += other != work
        self.idle.remove(replica)
        self.holds[replica] = frozenset(work.models)
        return Turn(replica, work, requests)
