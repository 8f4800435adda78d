"""Runs `protege init` for the tests, in a folder with a student, two experts and two prompt files."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import yaml

from configs.load import load_config
from tests.helpers.cli_runner import protege
from tests.helpers.tiny_model import config_dict, sum_rows, write_jsonl


def prepare(folder: Path) -> Path:
    """Writes the models and prompts to which the commands are relative."""
    config_dict(folder)
    write_jsonl(folder / "math.jsonl", sum_rows(40))
    write_jsonl(folder / "code.jsonl", [{"prompt": f"def f{i}", "answer": "x"} for i in range(40)])
    return folder


BASE = (
    "--student",
    "student",
    "--prompts",
    "math=math.jsonl",
    "--prompts",
    "code=code.jsonl",
    "--device",
    "cpu",
)
GIVEN = ("--expert", "math=model:math_expert", "--expert", "code=model:code_expert")


def made(*arguments: object, folder: str = "new", base=BASE) -> SimpleNamespace:
    """What init writes: the config, its data, the files' names and what was printed."""
    result = protege("init", folder, *base, *arguments)
    assert (result.code, result.err) == (0, ""), result.err
    path = Path(folder) / "merge.yaml"
    return SimpleNamespace(
        config=load_config(path).config,
        data=yaml.safe_load(path.read_text(encoding="utf-8")),
        text=path.read_text(encoding="utf-8"),
        files=sorted(file.name for file in Path(folder).iterdir()),
        out=result.out,
        path=path,
    )


def refused(*arguments: object, folder: str = "new", base=BASE) -> str:
    """The one message; nothing is left behind."""
    before = sorted(Path().rglob("*"))
    result = protege("init", folder, *base, *arguments)
    assert result.code == 2, result.out
    assert sorted(Path().rglob("*")) == before
    (message,) = result.errors
    return message.removeprefix("error: ")
