"""The mode of a domain, as declared and as it is laid over the shared arguments."""

from __future__ import annotations

import json

import pytest

from configs.load import load_config
from configs.prompt_mode import PLAIN, PromptMode, distinct
from tests.helpers.messages import refuses
from tests.helpers.tiny_model import config_dict, write_config

ASKED = ({"role": "user", "content": "1+1"},)


def load(tmp_path, *overrides):
    return load_config(write_config(tmp_path, config_dict(tmp_path)), overrides).config


def test_a_domains_arguments_lie_over_the_shared_ones(tmp_path):
    config = load(
        tmp_path,
        "chat_template={enable_thinking: false, level: 2}",
        "domains.math.chat_template={enable_thinking: true}",
        "domains.code.system_prompt=Write Python.",
    )
    assert config.prompt_modes() == {
        "math": PromptMode({"enable_thinking": True, "level": 2}),
        "code": PromptMode({"enable_thinking": False, "level": 2}, "Write Python."),
    }
    assert config.own_chat_templates() == {"math": {"enable_thinking": True, "level": 2}}


def test_without_the_options_every_domain_is_plain(tmp_path):
    config = load(tmp_path)
    assert set(map(PromptMode.key, config.prompt_modes().values())) == {PLAIN.key()}
    assert config.own_chat_templates() == {}
    assert PLAIN.messages(ASKED) == ASKED and PLAIN.told() == ""


def test_the_system_message_comes_first():
    mode = PromptMode({}, "Be short.")
    assert mode.messages(ASKED) == ({"role": "system", "content": "Be short."}, *ASKED)
    assert mode.takes(ASKED) and not mode.takes(mode.messages(ASKED))
    assert PLAIN.takes(mode.messages(ASKED))


def test_a_mode_is_told_as_the_config_writes_it():
    mode = PromptMode({"enable_thinking": True, "level": "low"}, 'Say "hi".')
    assert mode.told() == 'chat_template {enable_thinking: true, level: "low"}, system_prompt "Say \\"hi\\"."'


def test_each_mode_counts_once_and_kinds_of_values_are_told_apart():
    modes = [PromptMode({"a": 1, "b": 2}), PromptMode({"b": 2, "a": 1}), PromptMode({"a": True, "b": 2})]
    assert len(distinct({str(i): mode for i, mode in enumerate(modes)})) == 2
    assert len({PromptMode({"a": value}).key() for value in (1, True, "1", 1.5)}) == 4


@pytest.mark.parametrize("text", ["", "  ", "\n"], ids=repr)
def test_an_empty_system_prompt_is_refused(tmp_path, text):
    with refuses("domains.math.system_prompt"):
        load(tmp_path, f"domains.math.system_prompt={json.dumps(text)}")
