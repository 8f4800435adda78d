"""What a message must tell: a test names its facts, and leaves the words to the message."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from common.errors import ConfigError


def says(text: str, *facts: object, absent: Sequence[object] = ()) -> None:
    """Asserts that every fact stands in the text, whole: 4 is neither in 14 nor in 4.5.

    A fact is what a reader needs and a machine can check: a file, a field, a value, a valid alternative.
    `absent` are facts that must not stand there. Line breaks count as blanks.
    """
    missing = [str(fact) for fact in facts if not _stands(str(fact), text)]
    present = [str(fact) for fact in absent if _stands(str(fact), text)]
    assert not missing, f"not said: {missing}; said: {text!r}"
    assert not present, f"said, but should not be: {present}; said: {text!r}"


def say_each(texts: Sequence[str], *facts_of_each: Sequence[object]) -> None:
    """Asserts that there are as many texts as lists of facts, and that each says its own."""
    assert len(texts) == len(facts_of_each), texts
    for text, facts in zip(texts, facts_of_each, strict=True):
        says(text, *facts)


@contextmanager
def refuses(
    *facts: object, error: type[Exception] = ConfigError, absent: Sequence[object] = ()
) -> Iterator[pytest.ExceptionInfo]:
    """Asserts that the block raises the error with these facts in its message."""
    with pytest.raises(error) as caught:
        yield caught
    says(str(caught.value), *facts, absent=absent)


def problems_of(call: Callable[..., object], *arguments: object, **more: object) -> tuple[str, ...]:
    """The problems with which a call is refused."""
    with pytest.raises(ConfigError) as caught:
        call(*arguments, **more)
    return caught.value.problems


def _stands(fact: str, text: str) -> bool:
    fact, text = " ".join(fact.split()), " ".join(text.split())
    before = r"(?<!\w)(?<!\d\.)" if fact[:1].isdigit() else r"(?<!\w)" if fact[:1].isalpha() else ""
    after = r"(?!\w)(?!\.\d)" if fact[-1:].isdigit() else r"(?!\w)" if fact[-1:].isalpha() else ""
    return re.search(before + re.escape(fact) + after, text) is not None
