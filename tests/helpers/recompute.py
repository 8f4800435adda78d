"""Recomputes a run's scores and differences from its `samples/`, with nothing of the project."""

import json
from math import inf
from pathlib import Path
from statistics import fmean

SCORE = ("accuracy", "n", "unscored", "finish_rate", "mean_tokens")


def mismatches(run: Path) -> list[str]:
    """Numbers in which `report.json` and the samples differ by more than 1e-9; inf is "not measured"."""
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    (student,) = [name for name, model in report["models"].items() if model["role"] == "student"]
    said, found = {}, {}
    for row in report["comparisons"]:
        said |= {(row["against"], row["benchmark"], f"compared {x}"): row[x] for x in ("difference", "n")}
    for key, info in report["benchmarks"].items():
        ours = answers(run / "samples" / student, key, info)
        for name, model in report["models"].items():
            said |= {(name, key, x): (model["benchmarks"][key] or {}).get(x) for x in SCORE}
            theirs = answers(run / "samples" / name, key, info)
            if rows := theirs.values():
                means, unscored = by_problem(theirs, {}), sum(row["verdict"] == "unscored" for row in rows)
                lengths = [fmean(row[field] for row in rows) for field in ("finished", "tokens")]
                numbers = [fmean(means.values()) if means else None, len(rows) - unscored, unscored, *lengths]
                found |= {(name, key, x): number for x, number in zip(SCORE, numbers, strict=True)}
            a, b = by_problem(ours, theirs), by_problem(theirs, ours)
            if name != student and (common := a.keys() & b.keys()):
                found[name, key, "compared difference"] = fmean(a[p] - b[p] for p in common)
                found[name, key, "compared n"] = len(common)
    pairs = {p: [inf if of.get(p) is None else of[p] for of in (said, found)] for p in said | found}
    return [f"{p}: report {a}, samples {b}" for p, (a, b) in pairs.items() if a != b and abs(a - b) > 1e-9]


def answers(folder: Path, key: str, info: dict) -> dict[tuple, dict]:
    """A model's answers in a benchmark's mode; to a pool, if it has some to every member."""
    files = [folder / f"{name.removesuffix('@greedy')}.jsonl" for name in info["pools"] or [key]]
    parts = [map(json.loads, file.read_text().splitlines() if file.exists() else []) for file in files]
    parts = [[row for row in part if row["mode"] == info["mode"]] for part in parts]
    return {(r["benchmark"], r["problem_id"], r["index"]): r for p in parts for r in p} if all(parts) else {}


def by_problem(rows: dict[tuple, dict], others: dict[tuple, dict]) -> dict[tuple, float]:
    """Share of right answers to each problem; one that is unscored on either side counts on neither."""
    marks, unscored = {}, [p for of in (rows, others) for p in of if of[p]["verdict"] == "unscored"]
    for place in rows.keys() - unscored:
        marks.setdefault(place[:2], []).append(rows[place]["verdict"] == "pass")
    return {problem: fmean(right) for problem, right in marks.items()}
