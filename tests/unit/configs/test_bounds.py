"""Seeds and home folders that no part of a run could use are refused when the config is read."""

import pytest

from common.errors import ConfigError
from common.files import expanded
from configs.load import load_config
from tests.helpers.messages import refuses
from tests.helpers.paths import ROOT

QUICKSTART = ROOT / "configs" / "runs" / "quickstart.yaml"


@pytest.mark.parametrize("key", ["training.seed", "evaluation.seed", "domains.math.expert.seed"])
@pytest.mark.parametrize("seed", [-1, 2**31])
def test_seeds_have_bounds(key, seed):
    with refuses(key, seed):
        load_config(QUICKSTART, [f"{key}={seed}"])


def test_the_largest_seed_is_accepted():
    assert load_config(QUICKSTART, [f"training.seed={2**31 - 1}"]).config.training.seed == 2**31 - 1


def test_the_home_of_nobody_that_is_there_is_refused_in_words():
    with pytest.raises(ConfigError, match=r"~no-such-user/x.*no such user"):
        expanded("~no-such-user/x")
    with refuses("~no-such-user/x"):
        load_config(QUICKSTART, ["domains.math.prompts.path=~no-such-user/x"])
