"""The program in a model's answer: which of its fenced blocks can be it."""

from __future__ import annotations

import re
from collections.abc import Iterator

_OPENING = re.compile(r"^([^`~\n]*)(`{3,}+|~{3,}+)([^\n`]*)$")
_NEXT = re.compile(r"[A-Za-z0-9_+-]+")
"""What a fence begins with that opens the next block although the last one was not closed: a language."""

READS_INPUT = re.compile(r"\binput\s*\(|\bstdin\b|\bopen\s*\(\s*0\b")


def extract_program(text: str, entry_point: str | None = None) -> str:
    """The block that can be the answer; the whole text if it has none.

    entry_point: the name that the program must define; of the blocks that do, the last one counts. None: the
        program reads its input, and the last block that does so counts. If none fits, the last one counts.

    A block begins and ends with a line of three or more backticks or tildes, indented or not, and ends with
    the text if it is not closed. A fence within a triple-quoted string belongs to the string.
    """
    blocks = fenced_blocks(text)
    if not blocks:
        return text
    wanted = READS_INPUT if entry_point is None else _definition(entry_point)
    fitting = [block for block in blocks if wanted.search(block)]
    if entry_point is not None:  # a function or class before a line that only looks like an assignment
        defined = re.compile(rf"^(?:(?:async[ \t]+)?def|class)[ \t]+{re.escape(entry_point)}\b", re.MULTILINE)
        fitting = [block for block in fitting if defined.search(block)] or fitting
    return (fitting or blocks)[-1]


def last_fence(text: str) -> str | None:
    """Content of the last fenced block, up to the text's end if it is not closed; None if there is none."""
    blocks = fenced_blocks(text)
    return blocks[-1] if blocks else None


def _definition(name: str) -> re.Pattern[str]:
    escaped = re.escape(name)
    return re.compile(
        rf"^[ \t]*(?:(?:async[ \t]+)?def|class)[ \t]+{escaped}\b|^{escaped}[ \t]*(?::[^=\n]+)?=(?!=)",
        re.MULTILINE,
    )


def fenced_blocks(text: str) -> list[str]:
    """Contents of all fenced blocks, without the indentation that their fences have."""
    return list(_blocks(text.split("\n")))


def _blocks(lines: list[str]) -> Iterator[str]:
    place, rest = 0, ""
    last_marks = {mark: number for number, line in enumerate(lines) for mark in _MARKS if mark in line}
    while place < len(lines) or rest:
        if rest:
            line, rest = rest, ""
        else:
            line = lines[place]
            place += 1
        opening = _OPENING.match(line.rstrip("\r"))
        if opening is None:
            continue
        before, fence, _ = opening.groups()
        indent = before if not before.strip() else ""
        content, place, rest = _content(lines, place, indent, fence, last_marks)
        yield content


def _content(
    lines: list[str], place: int, indent: str, fence: str, last_marks: dict[str, int]
) -> tuple[str, int, str]:
    """A block's content, the line behind it, and what of its last line is prose again.

    last_marks: the last line with each mark of triple quotes. A string that is not closed ends at its fence.
    """
    closing = re.compile(rf"[ \t]*({re.escape(fence[0])}{{{len(fence)},}})(.*)", re.DOTALL)
    content: list[str] = []
    quotes = _Quotes()
    while place < len(lines):
        line = lines[place]
        place += 1
        found = closing.fullmatch(line)
        closes_later = quotes.is_open and last_marks[quotes.open_with] >= place
        if found is not None and not closes_later:
            behind = found.group(2).rstrip("\r")
            rest = line if _NEXT.fullmatch(behind.strip()) and not behind.startswith(" ") else behind.strip()
            return "".join(f"{text}\n" for text in content), place, rest
        content.append(line.removeprefix(indent))
        quotes.read(line)
    return "\n".join(content), place, ""


_MARKS = ('"""', "'''")


class _Quotes:
    """Whether a line of Python stands within a triple-quoted string; told without parsing."""

    def __init__(self) -> None:
        self.open_with = ""

    @property
    def is_open(self) -> bool:
        return self.open_with != ""

    def read(self, line: str) -> None:
        for mark in re.findall("|".join(_MARKS), line):
            if not self.open_with:
                self.open_with = mark
            elif self.open_with == mark:
                self.open_with = ""
