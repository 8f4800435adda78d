"""What each domain weighs under each loss aggregation: the table of docs/how_it_works.md."""

from __future__ import annotations

from typing import get_args

import pytest

from configs.schema import Training

torch = pytest.importorskip("torch")

LENGTHS = {"math": 26, "code": 34}
ROLLOUTS = 3
"""Of each domain."""

SHARES = {
    "seq-mean-token-mean": {"math": 0.5, "code": 0.5},
    "token-mean": {"math": 26 / 60, "code": 34 / 60},
    "seq-mean-token-sum": {"math": 26 / 60, "code": 34 / 60},
}
SIZES = {"seq-mean-token-mean": 1.0, "token-mean": 1.0, "seq-mean-token-sum": 30.0}
"""The loss where every token's is 1."""


def aggregated(mode: str, domains: set[str]) -> float:
    """The loss where every token of these domains has loss 1, and every other one 0."""
    from verl.trainer.ppo.core_algos import agg_loss

    rows = [domain for domain in LENGTHS for _ in range(ROLLOUTS)]
    places = torch.arange(max(LENGTHS.values()))
    mask_bt = torch.stack([(places < LENGTHS[domain]).float() for domain in rows])
    losses_bt = torch.stack([torch.full(places.shape, float(domain in domains)) for domain in rows])
    return float(agg_loss(losses_bt, mask_bt, mode))


def test_every_aggregation_is_in_the_table():
    assert SHARES.keys() == set(get_args(Training.model_fields["loss_aggregation"].annotation))


@pytest.mark.parametrize("mode", SHARES)
def test_domain_shares(mode):
    whole = aggregated(mode, set(LENGTHS))
    assert whole == pytest.approx(SIZES[mode])
    for domain, share in SHARES[mode].items():
        assert aggregated(mode, {domain}) / whole == pytest.approx(share)
