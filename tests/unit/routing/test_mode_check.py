"""Modes that the student's chat template does not take are refused before anything loads."""

from __future__ import annotations

import pytest

from configs.load import load_config
from configs.schema import MergeConfig
from routing.modes.chat_text import unlike
from routing.modes.mode_check import refused_modes
from tests.helpers.messages import says
from tests.helpers.mode_template import DEAF, TEMPLATE, WITHOUT_SYSTEM
from tests.helpers.tiny_model import config_dict, write_config, write_model

USER, ANSWER = {"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2"}


@pytest.fixture
def refused(tmp_path):
    """What is refused of these overrides with this template."""

    def refused(*overrides: str, template: str = TEMPLATE, prompts=None) -> list[str]:
        student = write_model(tmp_path / "judged", template=template)
        config: MergeConfig = load_config(write_config(tmp_path, config_dict(tmp_path)), overrides).config
        return refused_modes(config, student, prompts)

    return refused


def test_what_the_template_reads_is_taken(refused):
    assert refused() == []
    assert refused("chat_template={think: true}", "domains.code.chat_template={think: false}") == []
    assert refused("domains.math.chat_template={think: true}", "domains.code.system_prompt=Be short.") == []


def test_a_value_that_the_template_takes_for_granted_is_read(refused):
    """As Qwen3's `enable_thinking: true`."""
    assert refused("domains.math.chat_template={think: false}") == []


def test_an_argument_that_nothing_reads_is_refused_with_those_that_are_read(refused):
    (problem,) = refused("domains.math.chat_template={thinking: true, think: true}")
    says(problem, "domains.math.chat_template.thinking", "does not read", "it reads: keep, think", "judged")
    (problem,) = refused("chat_template={enable_thinking: false}")
    assert problem.startswith("chat_template.enable_thinking: ")
    (problem,) = refused("chat_template={a: 1}", template="{{ messages[-1]['content'] }}\n")
    says(problem, "it reads none")


def test_a_value_of_the_wrong_type_is_refused(refused):
    template = "{% if think is false %}<no>{% endif %}{{ messages[-1]['content'] }}\n"
    assert refused("chat_template={think: true}", template=template) == []
    (problem,) = refused("chat_template={think: 'false'}", template=template)
    says(problem, "chat_template.think", '"false"', "of its type", "do nothing")


def test_an_argument_for_conversations_needs_one(refused):
    """Some arguments are read where a prompt has several turns."""
    change = "domains.math.chat_template={keep: false}"
    says(*refused(change, prompts={"math": [[USER]]}), "domains.math.chat_template.keep")
    talk = [USER, ANSWER, USER]
    assert unlike([[USER], [USER], talk]) == [[USER], talk]
    assert refused(change, prompts={"math": [[USER], talk]}) == []


def test_a_shared_argument_that_every_domain_overrides_is_refused(refused):
    own = [f"domains.{name}.chat_template={{think: true}}" for name in ("math", "code")]
    (problem,) = refused("chat_template={think: false}", *own)
    says(problem, "chat_template.think", "every domain has its own")


def test_a_template_without_system_messages_is_told_in_its_words(refused):
    (problem,) = refused("domains.math.system_prompt=Be short.", template=WITHOUT_SYSTEM)
    says(problem, "domains.math.system_prompt", "takes no system message", "System role not supported")
    assert refused(template=WITHOUT_SYSTEM) == []


def test_a_template_that_leaves_system_messages_out_is_told(refused):
    (problem,) = refused("domains.math.system_prompt=Be short.", template=DEAF)
    says(problem, "domains.math.system_prompt", "leaves system messages out")


def test_a_template_that_refuses_every_plain_prompt_is_no_matter_of_the_modes(refused):
    """Where lengths are measured the prompt is named; one that wants a system message gets it."""
    wants = "{{ messages[1]['content'] if messages[1] is defined else raise_exception('no system') }}"
    assert refused("domains.math.system_prompt=Be short.", template=wants) == []
    never = "{{ raise_exception('no') }}"
    assert refused("domains.math.system_prompt=Be short.", "chat_template={a: 1}", template=never) == []


def test_an_argument_that_the_template_refuses_is_told(refused):
    template = "{% if level == 4 %}{{ raise_exception('at most 3') }}{% endif %}{{ level }}: 1+1"
    assert refused("domains.math.chat_template={level: 2}", template=template) == []
    (problem,) = refused("domains.math.chat_template={level: 4}", template=template)
    says(problem, "domains.math.chat_template", "level: 4", "at most 3")
