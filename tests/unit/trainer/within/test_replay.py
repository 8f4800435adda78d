"""How often the trainer asks for finished rollouts."""

import pytest

from trainer.within.replay import poll_seconds


@pytest.mark.parametrize(
    "waited, expected", [(0.0, 0.02), (0.5, 0.02), (2.0, 0.06), (30.0, 0.9), (600.0, 2.0)]
)
def test_it_asks_less_often_the_longer_it_has_waited_and_never_less_than_verl(waited, expected):
    assert poll_seconds(waited) == pytest.approx(expected)


def test_waiting_too_long_costs_a_few_percent_and_a_long_step_is_asked_about_few_times():
    waited, questions = 0.0, 0
    while waited < 60:
        waited, questions = waited + poll_seconds(waited), questions + 1
    assert waited < 60 * 1.031 and questions < 200  # 3,000 at a fixed 0.02 s
