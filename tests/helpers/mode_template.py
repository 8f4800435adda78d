"""A copy of the demo student whose chat template reads arguments and system messages."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.helpers.paths import STUDENT

TEMPLATE = (
    "{% if think is defined and think %}T {% endif %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}[{{ message['content'] }}]"
    "{% elif message['role'] == 'assistant' %}"
    "{{ message['content'] if keep is not defined or keep else '' }}{{ eos_token }}"
    "{% else %}{{ message['content'] }}\n{% endif %}"
    "{% endfor %}"
)
"""`think` writes `T ` before everything; `keep: false` leaves earlier answers out; a system message stands in
brackets before the prompt."""

WITHOUT_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
)
"""Refuses a system message, in Gemma's words."""

DEAF = (
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['content'] }}\n{% endif %}"
    "{% endfor %}"
)
"""Leaves system messages out."""


def student_with(folder: Path, template: str = TEMPLATE) -> Path:
    """The demo student, with this template."""
    shutil.copytree(STUDENT, folder)
    (folder / "chat_template.jinja").write_text(template)
    return folder
