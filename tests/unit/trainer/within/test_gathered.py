"""Items that end at nearly the same time leave in one message, each of them once."""

import asyncio

import pytest

from trainer.within.gathered import Gathered


def messages_of(puts, **settings):
    """What is sent of items that are put at these seconds: {item: seconds}."""
    sent = []

    async def send(items):
        sent.append(items)

    async def put(outbox, item, seconds):
        await asyncio.sleep(seconds)
        await outbox.put(item)

    async def run():
        outbox = Gathered(send, **settings)
        await asyncio.gather(*[put(outbox, item, seconds) for item, seconds in puts.items()])

    asyncio.run(run())
    return sent


def test_the_last_expected_item_sends_all_that_wait():
    assert messages_of({"a": 0, "b": 0.02, "c": 0.04}, expected=3, patience=60) == [["a", "b", "c"]]


def test_a_full_message_leaves_and_the_rest_waits():
    assert messages_of(dict.fromkeys("abcde", 0), expected=5, largest=2, patience=60) == [
        ["a", "b", "c", "d", "e"]
    ]  # all of them came in one turn of the loop
    spread = {item: 0.03 * place for place, item in enumerate("abcde")}
    assert messages_of(spread, expected=5, largest=2, patience=60) == [["a", "b"], ["c", "d"], ["e"]]


def test_nothing_waits_longer_than_the_patience():
    assert messages_of({"a": 0, "b": 0.02, "c": 0.3}, expected=9, patience=0.1) == [["a", "b"], ["c"]]


def test_what_nobody_announced_leaves_at_once():
    assert messages_of({"a": 0, "b": 0.05}, patience=60) == [["a"], ["b"]]


def test_more_can_be_expected_later():
    async def run():
        sent = []

        async def send(items):
            sent.append(items)

        outbox = Gathered(send, patience=60)
        outbox.expect(1)
        await outbox.put("a")
        outbox.expect(2)
        await asyncio.gather(outbox.put("b"), outbox.put("c"))
        return sent

    assert asyncio.run(run()) == [["a"], ["b", "c"]]


def test_put_returns_after_the_message_and_raises_its_error_for_each_item():
    async def send(items):
        raise RuntimeError(f"not sent: {items}")

    async def run():
        outbox = Gathered(send)
        return await asyncio.gather(outbox.put("a"), outbox.put("b"), return_exceptions=True)

    assert [str(error) for error in asyncio.run(run())] == ["not sent: ['a', 'b']"] * 2


def test_a_cancelled_item_does_not_take_the_others_with_it():
    sent = []

    async def send(items):
        sent.extend(items)

    async def run():
        outbox = Gathered(send)
        first, second = asyncio.create_task(outbox.put("a")), asyncio.create_task(outbox.put("b"))
        await asyncio.sleep(0)
        first.cancel()
        await second
        with pytest.raises(asyncio.CancelledError):
            await first

    asyncio.run(run())
    assert sent == ["a", "b"]
