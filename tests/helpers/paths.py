"""Where things lie that tests read."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "configs" / "demo"
STUDENT = DEMO / "student"
SHARED_DATA = ROOT.parent / "shared" / "data"
"""Copies of published benchmarks, on machines that have them."""
