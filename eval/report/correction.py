"""p-values of a report's comparisons, corrected for their number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from eval.report.data import ORACLE_BASELINE, ComparisonRow
from eval.statistics.intervals import holm


def corrected(comparisons: Sequence[ComparisonRow]) -> tuple[ComparisonRow, ...]:
    """The comparisons with p-values that are corrected for all of them.

    The oracle's repeat those with the teachers: they do not count, and have the teachers' corrected p-values.
    """
    counted = [
        row.p_value for row in comparisons if row.p_value is not None and row.against != ORACLE_BASELINE
    ]
    adjusted = dict(zip(counted, holm(counted), strict=True))  # equal p-values have equal corrected ones
    return tuple(
        row if row.p_value is None else replace(row, p_adjusted=adjusted[row.p_value], family=len(counted))
        for row in comparisons
    )
