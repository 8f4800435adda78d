"""What is done about training prompts that repeat a benchmark's problems, as declared."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from configs.strict import Strict


class OverlapCheck(Strict):
    """Training prompts are compared with the problems of every benchmark that the config names."""

    action: Literal["warn", "drop", "refuse"] = "warn"
    """`warn` trains on a prompt that repeats a problem and says so in check, run and report; `drop` leaves it
    out, of the experts' training too; `refuse` starts nothing."""
    ngram: Annotated[int, Field(ge=3)] = 13
    """So many words in a row are the same text; a whole prompt that is a problem counts at any length."""
