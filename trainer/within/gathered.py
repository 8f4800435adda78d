"""One message for all that ends at nearly the same time: between processes it is messages that cost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass
class Gathered(Generic[Item]):
    """Sends items in the order in which they came, some at a time.

    A message leaves when it is full, when no further item is expected, or when its first one has waited long
    enough.
    """

    send: Callable[[list[Item]], Awaitable[object]]
    largest: int = 64
    """Items of a full message."""
    patience: float = 0.2
    """Seconds that an item waits at most. Nothing waits for one rollout of a step but the last."""
    expected: int = 0
    """Items that are known to come."""
    waiting: list[Item] = field(default_factory=list)
    leaving: asyncio.Task[None] | None = None
    """The message that is being gathered."""
    complete: asyncio.Event = field(default_factory=asyncio.Event)

    def expect(self, items: int) -> None:
        """So many more items are going to come."""
        self.expected += items

    async def put(self, item: Item) -> None:
        """Returns once the item is sent; raises what `send` raises, for each item of the message."""
        self.expected = max(0, self.expected - 1)
        self.waiting.append(item)
        if self.leaving is None:
            self.complete.clear()
            self.leaving = asyncio.create_task(self._leave())
        if not self.expected or len(self.waiting) >= self.largest:
            self.complete.set()
        await asyncio.shield(self.leaving)

    async def _leave(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self.complete.wait(), self.patience)
        items, self.waiting, self.leaving = self.waiting, [], None
        await self.send(items)
