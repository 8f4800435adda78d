"""The policy that hands out turns, alone and on simulated replicas."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field

import pytest

from merging.exopd.replicas.dispatch import PATIENCE, Dispatcher, Request, Turn, Work

BATCH = 10
"""Tokens of a forward pass."""


def work(*models: str) -> Work:
    return Work(models, reward_scale=1.25 if len(models) > 1 else None)


def request(model: str, tokens: int = BATCH, sent: object = None) -> Request:
    return Request(work(model), tokens, sent)


def dispatcher(replicas: int, *held: str) -> Dispatcher:
    """With replicas that hold one model each."""
    made = Dispatcher(replicas, BATCH)
    for replica, model in enumerate(held):
        made.finished(replica, [model])
    return made


def handed_out(made: Dispatcher) -> dict[int, str]:
    """Model that each replica is given, of works with one."""
    return {turn.replica: turn.work.models[0] for turn in made.turns()}


# ------------------------------------------------------------------------------------------- single turns


def test_all_idle_replicas_work_as_soon_as_there_is_work_for_them():
    made = dispatcher(3)
    for model in ("a", "b", "a", "a"):
        made.add(request(model))
    assert sorted(handed_out(made)) == [0, 1, 2] and made.idle == set()
    assert handed_out(made) == {}, "nobody is idle"
    made.finished(1, ["b"])
    assert handed_out(made) == {1: "a"}, "what waits is read, even for a swap"
    made.finished(1, ["a"])
    assert handed_out(made) == {}, "nothing waits"


def test_a_replica_goes_on_with_what_it_holds():
    made = dispatcher(3, "a", "b", "c")
    for model in ("c", "a", "b"):
        made.add(request(model))
    assert handed_out(made) == {0: "a", 1: "b", 2: "c"}
    made.add(request("a"))
    made.add(request("b"))
    made.finished(1, ["b"])
    assert handed_out(made) == {1: "b"}, "although `a` has waited longer"


def test_a_swap_goes_to_the_work_with_most_tokens_for_each_holder():
    made = dispatcher(3, "a", "b", "")
    for model, tokens in (("a", 100), ("b", 100), ("c", 60)):
        made.add(request(model, tokens))
        made.add(request(model, tokens))
    # `a` and `b` go to their holders, who leave 100 each, of two holders with the newcomer; `c` has none yet
    assert handed_out(made) == {0: "a", 1: "b", 2: "c"}
    made.finished(2, [])
    made.add(request("a", 30))
    made.add(request("b", 10))
    assert handed_out(made) == {2: "a"}, "130 tokens for two, against 110"


def test_a_replica_that_holds_nothing_is_asked_before_one_that_holds_something_else():
    made = dispatcher(3, "a", "", "b")
    made.finished(1, [])
    made.add(request("c"))
    assert handed_out(made) == {1: "c"}


def test_an_adapter_or_a_second_architecture_is_held_beside_others():
    made = dispatcher(2)
    made.finished(0, ["a"])
    made.finished(1, ["b", "c"])
    made.add(request("c"))
    made.add(request("b"))
    assert handed_out(made) == {1: "c", 0: "b"}


def test_a_turn_of_distributions_goes_where_fewest_of_its_models_are_missing():
    made = dispatcher(3)
    made.finished(0, ["math"])
    made.finished(1, ["math", "reference"])
    made.finished(2, [])
    made.add(Request(work("math", "reference"), BATCH, None))
    (turn,) = made.turns()
    assert (turn.replica, turn.work.models) == (1, ("math", "reference"))


# ----------------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize(
    ("tokens", "taken"),
    [
        ([3, 3, 3, 3], [3, 3, 3]),
        ([11, 1], [11]),  # longer than a pass: alone
        ([9, 2, 1], [9]),  # what comes later does not overtake
        ([10, 1], [10]),
    ],
)
def test_a_turn_holds_the_tokens_of_a_pass(tokens, taken):
    made = dispatcher(4)
    for count in tokens:
        made.add(request("a", count))
    first = made.turns()[0]
    assert [each.tokens for each in first.requests] == taken


def test_a_burst_is_shared_out_in_ever_smaller_turns():
    """Two replicas take half of what waits each time, down to a pass: few turns, and they end together."""
    made = dispatcher(2)
    for number in range(64):
        made.add(request("a", BATCH, number))
    sizes, order = [], []
    while turns := made.turns():
        for turn in turns:
            sizes.append(len(turn.requests))
            order += [each.sent for each in turn.requests]
            made.finished(turn.replica, ["a"])
    assert sizes == [32, 16, 8, 4, 2, 1, 1]
    assert order == list(range(64)), "first in, first out"


def test_one_replica_takes_all_that_waits_for_a_model():
    made = dispatcher(1)
    for number in range(20):
        made.add(request("a" if number % 2 else "b", BATCH, number))
    (turn,) = made.turns()
    assert [each.sent for each in turn.requests] == list(range(0, 20, 2))


def test_what_is_drained_waits_no_longer():
    made = dispatcher(1)
    made.add(request("a", sent=1))
    made.add(request("b", sent=2))
    assert {each.sent for each in made.drain()} == {1, 2}
    assert made.turns() == []


# ------------------------------------------------------------------------------------ simulated replicas


@dataclass
class Simulation:
    """Replicas that each hold one model; a token takes one second, a swap `swap` seconds."""

    replicas: int
    swap: float = 20.0
    seconds: float = 0.0
    swaps: int = 0
    busy: list[float] = field(default_factory=list)
    answered: list[tuple[str, int, float]] = field(default_factory=list)
    """Model, number and time of every answer."""
    begun: list[Turn] = field(default_factory=list)

    def run(self, requests: list[tuple[float, str, int]]) -> None:
        """Requests are (arrival, model, tokens)."""
        made = Dispatcher(self.replicas, BATCH)
        self.busy, holds = [0.0] * self.replicas, [""] * self.replicas
        events: list = [(at, 0, number, model, tokens) for number, (at, model, tokens) in enumerate(requests)]
        heapq.heapify(events)
        while events:
            self.seconds, kind, number, *rest = heapq.heappop(events)
            if kind == 0:
                made.add(request(rest[0], rest[1], (number, self.seconds)))
            else:
                made.finished(number, [holds[number]])
                turn: Turn = rest[0]
                self.answered += [(turn.work.models[0], each.sent[0], self.seconds) for each in turn.requests]
            for turn in made.turns():
                (model,) = turn.work.models
                took = sum(each.tokens for each in turn.requests)
                if holds[turn.replica] != model:
                    took, self.swaps, holds[turn.replica] = took + self.swap, self.swaps + 1, model
                self.busy[turn.replica] += took
                self.begun.append(turn)
                heapq.heappush(events, (self.seconds + took, 1, turn.replica, turn))
            assert not (made.idle and made.queues), "a replica has nothing to do although something waits"


@pytest.mark.parametrize("replicas", [1, 2, 3, 8])
@pytest.mark.parametrize("models", [2, 3, 9])
@pytest.mark.parametrize("spacing", [0.0, 1.0, 20.0])
def test_everything_is_answered_once_in_order_and_by_all(replicas, models, spacing):
    """A burst, a stream that overloads, and one that does not; a teacher, and the last model with each."""
    rng = random.Random(0)
    requests = []
    for number in range(240):
        teacher = f"m{rng.randrange(models - 1)}"
        requests += [(number * spacing, name, rng.randint(1, 6)) for name in (teacher, f"m{models - 1}")]
    simulation = Simulation(replicas)
    simulation.run(requests)
    assert sorted(number for _, number, _ in simulation.answered) == list(range(len(requests)))
    for model in {model for _, model, _ in requests}:
        turns = [turn for turn in simulation.begun if turn.work.models == (model,)]
        begun = [each.sent[0] for turn in turns for each in turn.requests]
        assert begun == sorted(begun), "first in, first out"
    if spacing == 0.0:
        assert min(simulation.busy) > 0.8 * max(simulation.busy), "they end together"
        assert simulation.swaps <= 2 * (models + replicas), "some for each model, and to share out the ends"


def test_replicas_shorten_a_burst():
    requests = [(0.0, name, 5) for number in range(400) for name in (f"m{number % 3}", "reference")]
    seconds = {}
    for replicas in (1, 2, 4, 8):
        simulation = Simulation(replicas)
        simulation.run(requests)
        seconds[replicas] = simulation.seconds
    assert seconds[1] == 4000 + 4 * 20
    assert seconds[1] / seconds[2] > 1.9 and seconds[1] / seconds[4] > 3.6 and seconds[1] / seconds[8] > 6.5


def test_no_model_waits_for_ever_behind_one_that_never_ends():
    """A stream of `a` would keep its holders busy; `b` has its turn, for one swap there and one back."""
    stream = [(float(second), "a", 1) for second in range(4000)]
    simulation = Simulation(2, swap=3.0)
    simulation.run([*stream, (1000.5, "b", 1)])
    (waited,) = [at - 1000.5 for model, _, at in simulation.answered if model == "b"]
    assert waited <= PATIENCE * 2 * BATCH
    busy = Simulation(1, swap=50.0)
    busy.run([(float(second), "ab"[second % 7 == 0], 1) for second in range(4000)])
    assert busy.swaps <= 2 * len(busy.begun) / PATIENCE + 2


def test_a_stream_that_the_replicas_keep_up_with_needs_few_swaps():
    """Three models and three replicas: each keeps to one after the first swaps, as far as arrivals allow."""
    rng = random.Random(1)
    requests = [(15.0 * n, name, 5) for n in range(300) for name in (f"m{rng.randrange(2)}", "reference")]
    simulation = Simulation(3, swap=2.0)
    simulation.run(requests)
    assert simulation.swaps <= 6
