"""What a router tells of itself, in words: how good it is where the label is known, and how sure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Router = Mapping[str, Any]
"""See `routing.routers.decisions.Decisions.measured`."""


def told(router: Router) -> list[str]:
    """A few sentences, for the report and the terminal."""
    return [*_decided(router), *_tested(router), *_calibrated(router)]


def _decided(router: Router) -> Iterator[str]:
    kind, n = router["kind"], router["unlabelled"]
    name = f"router {kind}" + (" (experimental)" if kind == "agreement" else "")
    if kind == "rules":
        counts = "; ".join(f"{rule['rule']}: {rule['prompts']}" for rule in router["matches"])
        yield f"{name}: {n} prompts without a label ({counts}; no rule: {router['unmatched']})"
    elif kind == "learned":
        yield (
            f"{name} ({router['features']}): {n} prompts without a label, of which it does not decide on "
            f"{router['undecided']}: {router['unlike']} are like no labelled prompt, "
            f"{router['undecided'] - router['unlike']} under the threshold {router['threshold']:g} "
            f"(otherwise: {router['otherwise']})"
        )
    else:
        yield (
            f"{name}, signal {router['signal']}: {n} prompts without a label, {router['under_margin']} of "
            f"them within the margin {router['margin']:g} (otherwise: {router['otherwise']})"
        )


def _tested(router: Router) -> Iterator[str]:
    if router.get("tested") is None:
        yield "its accuracy is not measured: no labelled prompt was there to test it on"
        return
    yield f"its accuracy on {router['against']}: {_share(router['tested'])}"
    above = router.get("tested_above_threshold")
    if above is not None and above["n"] < router["tested"]["n"]:
        yield f"of those, where its confidence reaches the threshold: {_share(above)}"


def _calibrated(router: Router) -> Iterator[str]:
    found = router.get("calibration_error")
    if found is not None:
        yield (
            f"expected calibration error of its confidence: {found['after']:.3f} ({found['before']:.3f} "
            f"uncalibrated; temperature {router['temperature']:.2f})"
        )


def _share(tested: Mapping[str, Any]) -> str:
    lo, hi = tested["interval"]
    return f"{tested['accuracy']:.1%} (95% interval {lo:.1%} to {hi:.1%}, n = {tested['n']})"


def confusion_table(router: Router) -> list[list[str]]:
    """Head and rows: the label, then how often the router said each domain; empty where it was not tested."""
    found = router.get("confusion")
    if not found:
        return []
    said = sorted({domain for counts in found.values() for domain in counts})
    rows = [[truth, *(str(counts.get(domain, 0)) for domain in said)] for truth, counts in found.items()]
    return [["label", *(f"routed to {domain}" for domain in said)], *rows]


def histogram_rows(router: Router) -> list[tuple[str, int]]:
    """(range of confidence, prompts) from the first bin that holds any; empty where there is none."""
    bins = router.get("histogram") or []
    first = next((place for place, found in enumerate(bins) if found["prompts"]), len(bins))
    return [(f"{found['from']:.1f} to {found['to']:.1f}", found["prompts"]) for found in bins[first:]]
