"""Words for messages: what a misspelt name may have meant, and how counts, times and sizes are said."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(given: str, valid: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The valid name that a text most resembles, whatever its case; None if it resembles none."""
    by_folded = {name.casefold(): name for name in valid}
    near = difflib.get_close_matches(given.casefold(), by_folded, n=1, cutoff=cutoff)
    return by_folded[near[0]] if near else None


def did_you_mean(given: str, valid: Iterable[str]) -> str:
    """A question to put before a list of valid names, or nothing."""
    near = nearest(given, valid)
    return f"did you mean {near!r}? " if near else ""


LONGEST_MESSAGE = 5_000


def printable(text: str, longest: int = LONGEST_MESSAGE) -> str:
    """A message that may quote a damaged file: what no terminal should be sent is escaped, and the end left
    out of one of more than `longest` characters."""
    shown = "".join(
        sign if sign.isprintable() or sign == "\n" else repr(sign)[1:-1] for sign in text[:longest]
    )
    return shown if len(text) <= longest else f"{shown} ... ({len(text)} characters)"


def counted(count: int, noun: str) -> str:
    """A count and its noun, such as `1 seed` and `3 seeds`."""
    return f"{count} {noun}{'s' * (count != 1)}"


def duration(seconds: float) -> str:
    """Seconds as a person would say them."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def gib(size: float) -> str:
    """Bytes in GiB."""
    return f"{size / 2**30:.1f} GiB"


def gb(size: float) -> str:
    """Bytes in GB, 10^9, as devices are sold; in MB and kB where that is little."""
    unit, name = next(
        (pair for pair in ((10**9, "GB"), (10**6, "MB")) if size >= pair[0] / 10), (10**3, "kB")
    )
    return f"{size / unit:.1f} {name}"


def mib(size: float) -> str:
    """Bytes in whole MiB."""
    return f"{size / 2**20:.0f} MiB"


def in_its_unit(size: float) -> str:
    """Bytes in the unit that suits them, from B to TiB."""
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:.0f} {units[0]}" if units[0] == "B" else f"{size:.1f} {units[0]}"
