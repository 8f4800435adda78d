"""Which part of an answer is the program."""

import time

import pytest

from eval.grading.programs import extract_program, fenced_blocks

F = "def f(x):\n    return x\n"


def fenced(code, fence="```", info="python"):
    return f"{fence}{info}\n{code}{fence}\n"


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("x = 1", "x = 1"), ("a\n```python\nx = 1\n```\nb", "x = 1\n"),
        ("```\none\n```\n```py\ntwo\n```", "two\n"), ("```python\nx = 1", "x = 1"),
        ("  return 1", "  return 1"), ("```python\r\nx = 1\r\n```\r\n", "x = 1\r\n"),
    ],
)  # fmt: skip
def test_without_a_name_the_last_block_counts(text, program):
    assert extract_program(text) == program


@pytest.mark.parametrize(
    "text",
    [
        fenced(F), fenced(F, "~~~"), fenced(F, "````"), fenced(F, info=""), fenced(F, info="Python 3"),
        "Call ```f(1)``` like this:\n" + fenced(F),
        fenced(F) + fenced("f = 3\n", info=""), fenced(F) + fenced("f == 3\n", info=""),
        fenced(F) + fenced("class T:\n    def f(self): pass\n"),
        fenced(F) + "It is used so:\n" + fenced("print(f(1))\n"),
        fenced(F) + "Output:\n" + fenced("1\n", info="text"),
        fenced("def g(x): pass\n") + fenced(F) + fenced("1\n", info=""),
        fenced("def f(x): pass\n") + "Better:\n" + fenced(F),
        "So: " + fenced(F), "first ```python\n1\n``` then ```\n" + F + "```", "```python\n1\n" + fenced(F),
    ],
)  # fmt: skip
def test_the_block_that_defines_the_name_counts(text):
    assert extract_program(text, "f") == F


def test_an_indented_fence_loses_its_indentation():
    text = "1. So:\n   ```python\n   def f(x):\n       return x\n   ```\n"
    assert extract_program(text, "f") == F


def test_a_fence_in_a_docstring_belongs_to_it():
    code = 'def f(x):\n    """Doubles.\n\n    ```\n    f(1)\n    ```\n    """\n    return 2 * x\n'
    assert extract_program(fenced(code), "f") == code
    assert extract_program("```python\ndef f(x):\n    '''never closed\n```\nafter", "f").endswith("closed\n")


def test_a_class_and_an_assignment_define_too():
    for code in ("class f:\n    pass\n", "f = lambda x: x\n", "async def f(x):\n    return x\n"):
        assert extract_program(fenced(code) + fenced("f(1)\n"), "f") == code


@pytest.mark.parametrize("reads", ["n = input()\n", "import sys\nsys.stdin.read()\n", "open(0).read()\n"])
def test_a_program_that_reads_its_input_counts_before_sample_output(reads):
    assert extract_program(fenced(reads) + fenced("3\n4\n", info="")) == reads


def test_long_texts_take_no_time():
    started = time.monotonic()
    for text in (
        "```\n" * 20_000,
        "~~~x\n" * 20_000,
        '"""\n```\n' * 10_000,
        "`" * 10**6,
        "    def f" * 10**5,
        "~" * 50_000 + "`",
        "```\nx = '''\n" + "```\n" * 20_000 + "'''",
    ):
        fenced_blocks(text)
        extract_program(text, "f")
    assert time.monotonic() - started < 10
