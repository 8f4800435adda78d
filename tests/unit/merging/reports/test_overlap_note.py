"""A report tells that its student learned from answers of older weights."""

from __future__ import annotations

import pytest

from configs.load import load_config
from merging.reports.reporting import notes
from tests.helpers.opened_runs import open_run
from tests.helpers.tiny_model import config_dict, write_config


@pytest.mark.parametrize(("overlap", "told"), [("none", False), ("one_step", True)])
def test_the_note_stands_where_rollouts_were_ahead(tmp_path, overlap, told):
    overrides = ("training.prompts_per_step=2", "baselines=[]", f"training.overlap={overlap}")
    folder = open_run(load_config(write_config(tmp_path, config_dict(tmp_path)), overrides), tmp_path / "run")
    found = notes(folder.written().folder)
    assert any("weights of one update before" in note for note in found) == told
