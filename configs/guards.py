"""What is watched while a student trains, as declared."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NegativeFloat, PositiveInt

from configs.strict import Strict


class Alarms(Strict):
    """Watches each domain's answers while the student trains. Every alarm goes to the report."""

    action: Literal["warn", "back_off", "stop"] = "warn"
    """`warn`: say it and go on; `back_off`: go on from the last checkpoint with lambda 1 for that domain, or
    just warn where it is not above 1; `stop`: end the run (the same command goes on past the alarm)."""
    window: PositiveInt = 5
    """Steps whose mean is compared: the last so many with the first so many."""
    length_factor: Annotated[float, Field(gt=1)] = 2.0
    """Length alarm: answers are longer, or shorter, than at first by this factor."""
    finish_rate_drop: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Finish-rate alarm: so much smaller is the share of answers that end before the length limit."""
    end_log_probability: NegativeFloat = -15.0
    """EOS alarm: where the student ended its answers, the teacher's mean log-probability of the end token is
    below this (nats): it ends its own with another token."""
