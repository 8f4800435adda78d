"""What PyYAML says of a broken file, in the words of someone who writes a config."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import yaml

QUOTE = "put the value in quotes if text is meant"


def explain_yaml(error: yaml.YAMLError, text: str) -> tuple[int | None, str]:
    """The line (from 1; None if unknown) at which the mistake was made, and what it is."""
    if (character := getattr(error, "character", None)) is not None:  # a ReaderError
        line = text.count("\n", 0, getattr(error, "position", 0)) + 1
        return line, f"the character U+{character:04X} cannot stand in YAML"
    problem = str(getattr(error, "problem", None) or error)
    context = getattr(error, "context", None) or ""
    here, start = (_line(getattr(error, name, None)) for name in ("problem_mark", "context_mark"))
    lines = text.splitlines()
    written = lines[here - 1] if here and here <= len(lines) else ""
    if "'\\t'" in problem or (written.lstrip(" ").startswith("\t") and "block" in problem + context):
        return here, "a tab; indent by spaces"
    if problem == "could not find expected ':'":
        key = lines[start - 1].strip() if start and start <= len(lines) else ""
        return start, f"no colon after the key in {key[:60]!r}; write `key: value`, with a space after it"
    if problem.startswith("mapping values are not allowed"):
        if len(re.findall(r":(?=\s|$)", written)) > 1:
            return here, f"a second colon in the line; {QUOTE}"
        return (
            here,
            "a key in the middle of a value: the line above has no colon, or the indentation is wrong",
        )
    if problem.startswith("expected <block end>"):
        return here, "the line is indented otherwise than the keys that it stands among"
    if context.startswith("while scanning a quoted scalar"):
        return start, "a quote that is opened here is not closed"
    if context.startswith("while parsing a flow"):
        what = "list" if "sequence" in context else "mapping"
        return here, f"{problem}, in the {what} that opens on line {start}"
    if found := re.match(r"found character '(.+)' that cannot start any token", problem):
        return here, f"a value cannot start with {found[1]!r}; {QUOTE}"
    if problem.startswith("found undefined alias"):
        return here, f"{problem} (`*` refers to a value marked by `&`); {QUOTE}"
    return here, problem


def _line(mark: yaml.Mark | None) -> int | None:
    return None if mark is None else mark.line + 1
