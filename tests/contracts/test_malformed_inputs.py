"""Files of every kind, damaged in every way: refused in words, at once, and nothing is written."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import ConfigError
from common.files import json_text
from configs.blocks.prompts import FilePrompts
from configs.load import load_text
from routing.sources.collect import load_prompts
from routing.sources.readers import FORMATS
from teachers.registry.records import parse_record
from tests.helpers.damaged_setting import Setting
from tests.helpers.malformed import corpus, outcome, run_command, targets

SEED = 13


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """A folder in which every command succeeds; what imports long is imported before anything is timed."""
    pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: F401

    folder = tmp_path_factory.mktemp("malformed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROTEGE_HOME", str(folder / "protege_home"))
        yield Setting.write(folder)


def test_the_files_are_accepted_as_they_are(setting):
    commands = {command for _, commands in targets(setting).values() for command in commands}
    refused = {
        command: said for command in commands if (said := run_command(command, setting))[0] != "accepted"
    }
    assert not refused


def test_damaged_files_are_refused_in_words(setting):
    found = [(case, outcome(setting, case)) for case in corpus(setting, SEED, values=2, damages=2)]
    broken = [f"{c.target}, {c.damage}, {c.command}: {o.kind}: {o.said}" for c, o in found if not o.held]
    assert not broken, "\n".join(broken)
    refused = sum(outcome.kind == "refused" for _, outcome in found)
    assert refused > 0.8 * len(found), "most damage does harm"


BYTES = st.binary(max_size=200) | st.text('{}[]",:0123456789eE.-+ntfalsu\\ \n', max_size=200).map(str.encode)


@pytest.mark.parametrize("end", FORMATS)
@settings(max_examples=60, deadline=10_000, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(content=BYTES)
def test_any_bytes_as_prompts(tmp_path, end, content):
    path = tmp_path / f"rows{end}"
    path.write_bytes(content)
    with contextlib.suppress(ConfigError):
        load_prompts(FilePrompts(path=path), "math")


@settings(max_examples=150, deadline=10_000, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(text=st.text(max_size=100) | st.text("ab:-&*[]{}<>!%@`'\"#|? \n\t01", max_size=60))
def test_any_text_as_a_config(tmp_path, text):
    with pytest.raises(ConfigError):
        load_text(text, tmp_path / "c.yaml")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ("id", "domain", "identity", "prompts", "created", "versions", "evaluation", "distance", "base")


@settings(max_examples=150, deadline=10_000, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(values=st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_any_values_as_a_record(tmp_path, values):
    with pytest.raises(ConfigError):
        parse_record(json_text(values), "record.json", tmp_path)
