"""Where other tools find the advantage, and under which names they give its arguments."""

from __future__ import annotations

import math

import pytest
import torch

import merging.exopd.objective
from merging.objective import gopd_advantage


def test_the_stable_path_leads_to_the_function_that_trains():
    assert gopd_advantage is merging.exopd.objective.gopd_advantage


def test_arguments_may_be_given_by_name():
    """1.25 * (log 0.5 - log 0.2) - (log 0.3 - log 0.2)"""
    advantage = gopd_advantage(
        student_logp=torch.tensor([math.log(0.3)]),
        teacher_logp=torch.tensor([math.log(0.5)]),
        reference_logp=torch.tensor([math.log(0.2)]),
        reward_scale=1.25,
    )
    assert advantage.tolist() == pytest.approx([0.7399], abs=5e-5)
