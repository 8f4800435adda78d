"""What a kind of scorer does not read is refused."""

import pytest

from configs.load import load_config
from tests.helpers.messages import refuses
from tests.helpers.paths import ROOT

QUICKSTART = ROOT / "configs" / "runs" / "quickstart.yaml"
SAMPLED = "objective.estimator=sampled"
DEFAULT_BATCH = "scorer.tokens_per_batch=16384"  # the quickstart has another


def accepted(*overrides):
    return load_config(QUICKSTART, [SAMPLED, *overrides]).config


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("pool", "tokens_per_batch=4096"),
        ("pool", "canary=false"),
        ("shared", "pool.nodes=2"),
        ("sharded", "pool.nodes=2"),
    ],
)
def test_an_option_of_another_kind_is_refused(kind, key):
    with refuses(f"scorer.{key.split('=')[0].split('.')[0]}: scorer.kind: {kind} does not read it"):
        accepted(f"scorer.kind={kind}", f"scorer.{key}")


def test_the_options_of_each_kind_are_accepted():
    assert accepted("scorer.kind=sharded", "scorer.tokens_per_batch=4096").scorer.tokens_per_batch == 4096
    assert not accepted("scorer.kind=shared", "scorer.canary=false").scorer.canary
    assert accepted("scorer.kind=pool", "scorer.pool.nodes=1", DEFAULT_BATCH).scorer.pool.nodes == 1


def test_what_reads_the_starts_distance_takes_batches_beside_a_pool():
    own = accepted("scorer.kind=pool", "scorer.tokens_per_batch=4096", "training.start=average")
    assert own.scorer.tokens_per_batch == 4096
