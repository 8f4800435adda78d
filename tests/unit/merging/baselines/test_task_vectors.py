"""Merges of weights by hand, and the identities that tie them to each other."""

from __future__ import annotations

import numpy as np
import pytest

from merging.baselines import task_vectors

torch = pytest.importorskip("torch")


def weights(**values):
    return {name: torch.tensor(value, dtype=torch.float32) for name, value in values.items()}


def plain(merged):
    return {name: value.tolist() for name, value in merged.items()}


BASE = weights(a=[1.0, 1.0], b=[[2.0], [0.0]])
EXPERTS = [weights(a=[2.0, 1.0], b=[[0.0], [4.0]]), weights(a=[5.0, 0.0], b=[[3.0], [1.0]])]
"""Task vectors: a [1, 0] and [4, -1]; b [-2, 4] and [1, 1]."""


def random_models(count=3, shapes=(("a", (7, 5)), ("b", (11,)), ("c", (2, 3, 4)))):
    generator = torch.Generator().manual_seed(0)
    draw = [{n: torch.randn(shape, generator=generator) for n, shape in shapes} for _ in range(count + 1)]
    return draw[0], draw[1:]


def same(one, other, tolerance=1e-6):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=tolerance)


def differ(one, other):
    return any(not torch.equal(one[name], other[name]) for name in one)


# ------------------------------------------------------------------------------------------- by hand


def test_average_by_hand():
    assert plain(task_vectors.average(BASE, EXPERTS)) == {"a": [3.5, 0.5], "b": [[1.5], [2.5]]}


def test_task_arithmetic_by_hand():
    """Sums of the task vectors: a [5, -1], b [-1, 5]."""
    assert plain(task_vectors.task_arithmetic(BASE, EXPERTS, 1.0)) == {"a": [6.0, 0.0], "b": [[1.0], [5.0]]}
    assert plain(task_vectors.task_arithmetic(BASE, EXPERTS, 0.5)) == {"a": [3.5, 0.5], "b": [[1.5], [2.5]]}


def test_extrapolation_by_hand():
    """From the base to the mean: a [2.5, -0.5], b [-0.5, 2.5]; twice as far."""
    assert plain(task_vectors.extrapolation(BASE, EXPERTS, 2.0)) == {"a": [6.0, 0.0], "b": [[1.0], [5.0]]}
    assert plain(task_vectors.extrapolation(BASE, EXPERTS, 0.5)) == {"a": [2.25, 0.75], "b": [[1.75], [1.25]]}


class TestTies:
    base = weights(a=[0.0, 10.0, 0.0], b=[1.0, 0.0])
    experts = (
        weights(a=[4.0, 7.0, 0.5], b=[1.0, 2.0]),
        weights(a=[-1.0, 16.0, 0.0], b=[3.0, -5.0]),
        weights(a=[2.0, 11.0, 0.0], b=[2.0, 6.0]),
    )
    """Task vectors over a and b: [4, -3, 0.5, 0, 2], [-1, 6, 0, 2, -5], [2, 1, 0, 1, 6]."""

    def test_by_hand(self):
        """Density 0.4 keeps two of five: [4, -3, 0, 0, 0], [0, 6, 0, 0, -5], [2, 0, 0, 0, 6].

        Sums: 6, 3, 0, 0, 1. Means of the entries of that sign: (4+2)/2, 6, none, none, 6.
        """
        merged = task_vectors.ties(self.base, self.experts, 0.4, 1.0)
        assert plain(merged) == {"a": [3.0, 16.0, 0.0], "b": [1.0, 6.0]}
        half = task_vectors.ties(self.base, self.experts, 0.4, 0.5)
        assert plain(half) == {"a": [1.5, 13.0, 0.0], "b": [1.0, 3.0]}

    def test_without_a_trim(self):
        """Sums: 5, 4, 0.5, 3, 3. Means: (4+2)/2, (6+1)/2, 0.5 of one entry, (2+1)/2, (2+6)/2."""
        merged = task_vectors.ties(self.base, self.experts, 1.0, 1.0)
        assert plain(merged) == {"a": [3.0, 13.5, 0.5], "b": [2.5, 4.0]}

    def test_the_share_is_that_of_all_weights_together(self):
        """One of four is kept, and it lies in b; one of each tensor would keep 1 in a."""
        merged = task_vectors.ties(weights(a=[0.0, 0.0], b=[0.0, 0.0]), [weights(a=[1.0, 0.5], b=[3.0, 2.0])],
                                   0.25, 1.0)  # fmt: skip
        assert plain(merged) == {"a": [0.0, 0.0], "b": [3.0, 0.0]}

    def test_at_least_one_is_kept_and_what_equals_it(self):
        base = weights(a=[0.0, 0.0, 0.0])
        assert plain(task_vectors.ties(base, [weights(a=[1.0, -3.0, 2.0])], 0.01, 1.0)) == {"a": [0, -3.0, 0]}
        assert plain(task_vectors.ties(base, [weights(a=[3.0, -3.0, 2.0])], 0.01, 1.0)) == {
            "a": [3.0, -3.0, 0]
        }

    def test_a_tied_vote_leaves_the_base(self):
        merged = task_vectors.ties(
            weights(a=[5.0, 5.0]), [weights(a=[7.0, 6.0]), weights(a=[3.0, 6.0])], 1.0, 1.0
        )
        assert plain(merged) == {"a": [5.0, 6.0]}

    def test_no_change_at_all_is_the_base(self):
        assert plain(task_vectors.ties(self.base, [self.base, self.base], 0.2, 1.0)) == plain(self.base)

    @pytest.mark.parametrize("density", [0.05, 0.2, 0.5, 1.0])
    def test_against_the_slow_way(self, density):
        """Weight by weight, with a full sort of each task vector."""
        base, experts = random_models()
        flat = [np.concatenate([(e[n] - base[n]).numpy().ravel() for n in base]) for e in experts]
        keep = max(1, round(density * len(flat[0])))
        trimmed = []
        for vector in flat:
            kept = set(np.argsort(-np.abs(vector))[:keep])
            trimmed.append([value if place in kept else 0.0 for place, value in enumerate(vector)])
        expected = []
        for entries in zip(*trimmed, strict=True):
            positive = sum(entries) > 0
            agreeing = [entry for entry in entries if entry != 0 and (entry > 0) == positive]
            expected.append(sum(agreeing) / len(agreeing) if agreeing else 0.0)
        merged = task_vectors.ties(base, experts, density, 1.0)
        found = np.concatenate([(merged[n] - base[n]).numpy().ravel() for n in base])
        np.testing.assert_allclose(found, expected, atol=1e-6)


class TestDare:
    def test_by_hand(self):
        """Kept entries of a constant task vector of 1 are 1 / (1 - 0.75) = 4, the others 0."""
        base, expert = {"a": torch.full((20000,), 2.0)}, {"a": torch.full((20000,), 3.0)}
        merged = task_vectors.dare(base, [expert], 0.75, 1.0, 42)["a"]
        assert set(merged.tolist()) == {2.0, 6.0}
        assert (merged == 6.0).float().mean() == pytest.approx(0.25, abs=0.01)
        half = task_vectors.dare(base, [expert], 0.75, 0.5, 42)["a"]
        assert torch.equal(half == 4.0, merged == 6.0) and set(half.tolist()) == {2.0, 4.0}

    def test_the_mean_counts_what_was_dropped(self):
        """Two constant vectors at rate 0.5 have entries 2 or 0 each, so their mean is 0, 1 or 2."""
        base, expert = {"a": torch.zeros(20000)}, {"a": torch.ones(20000)}
        merged = task_vectors.dare(base, [expert, expert], 0.5, 1.0, 0)["a"]
        shares = [(merged == value).float().mean().item() for value in (0.0, 1.0, 2.0)]
        assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.01)  # experts drop independently

    def test_its_mean_over_seeds_is_the_average(self):
        base, experts = random_models()
        runs = [task_vectors.dare(base, experts, 0.5, 1.0, seed) for seed in range(2000)]
        mean = {name: sum(run[name] for run in runs) / len(runs) for name in base}
        same(mean, task_vectors.average(base, experts), tolerance=0.15)

    def test_a_seed_gives_the_same_choice_and_leaves_torchs_own(self):
        base, experts = random_models()
        before = torch.random.get_rng_state()
        same(*(task_vectors.dare(base, experts, 0.5, 1.0, 7) for _ in range(2)), tolerance=0)
        assert torch.equal(torch.random.get_rng_state(), before)


# ---------------------------------------------------------------------------------------- identities


def test_identities():
    base, experts = random_models()
    mean = task_vectors.average(base, experts)
    same(task_vectors.task_arithmetic(base, experts, 1 / 3), mean)
    same(task_vectors.extrapolation(base, experts, 1.0), mean)
    same(task_vectors.dare(base, experts, 0.0, 1.0, 42), mean)
    same(task_vectors.extrapolation(base, experts, 3.0), task_vectors.task_arithmetic(base, experts, 1.0))
    same(task_vectors.dare(base, experts, 0.0, 1.5, 0), task_vectors.extrapolation(base, experts, 1.5))
    one = experts[:1]
    for scale in (1.0, 0.3):
        same(task_vectors.ties(base, one, 1.0, scale), task_vectors.task_arithmetic(base, one, scale))
    same(task_vectors.task_arithmetic(base, one, 1.0), experts[0])
    same(task_vectors.ties(base, [experts[0]] * 4, 1.0, 1.0), experts[0])  # all agree


def test_the_arithmetic_is_float32():
    """In bfloat16 1 + 2**-8 is 1 already, so differences taken there would lose the small parts."""
    base = {"a": torch.tensor([1.0], dtype=torch.bfloat16)}
    experts = [{"a": torch.tensor([value], dtype=torch.bfloat16)} for value in (1.0, 1.0 + 2**-7)]
    for merged in (task_vectors.average(base, experts), task_vectors.extrapolation(base, experts, 1.0)):
        assert merged["a"].dtype == torch.float32 and merged["a"].item() == 1.0 + 2**-8
