"""What `protege init` refuses: exit code 2, one message, and nothing is written."""

from __future__ import annotations

import pytest

from tests.helpers.init_runner import BASE, prepare, refused
from tests.helpers.messages import says
from tests.helpers.tiny_model import sum_rows, write_jsonl


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working folder, with models and prompts."""
    monkeypatch.chdir(tmp_path)
    return prepare(tmp_path)


def of_file(name):
    """The flags of one domain whose prompts are this file."""
    return (*BASE[:2], "--prompts", f"math={name}")


HOSTILE: dict[str, tuple[list[str], tuple, str, tuple[str, ...]]] = {
    "no domain": ([], ("--student", "student"), "", ("--domain NAME", "--prompts NAME=FILE")),
    "domain twice": (["--domain", "a", "--domain", "a"], BASE, "--domain a", ("twice",)),
    "no prompts": (["--domain", "math"], ("--student", "student"), "", ("domain 'math'", "--prompts")),
    "no equals sign": (["--reward", "math"], BASE, "--reward math", ("DOMAIN=VALUE",)),
    "unknown domain": (["--reward", "maht=exact"], BASE, "--reward maht=exact",
                       ("'maht'", "'math'", "domains: math, code")),
    "flag twice": (["--reward", "math=exact", "--reward", "math=math"], BASE, "--reward math", ("twice",)),
    "prompts of no domain": (["--domain", "a"], BASE, "--prompts math=math.jsonl", ("'math'",)),
    "domain's name": ([], ("--student", "student", "--prompts", "a b=math.jsonl"), "--domain", ("'a b'",)),
    "name with a new line": (["--name", "a\n"], BASE, "--name", (r"'a\n'",)),
    "reserved name": ([], ("--student", "student", "--prompts", "student=math.jsonl"), "--domain",
                      ("'student'",)),
    "no such student": ([], ("--student", "./nowhere", *BASE[2:]), "--student", ("'./nowhere'", "no such")),
    "student is a file": ([], ("--student", "math.jsonl", *BASE[2:]), "--student", ("math.jsonl", "file")),
    "student is nonsense": ([], ("--student", "a b: {", *BASE[2:]), "--student", ("'a b: {'", "no such")),
    "student without a config": ([], ("--student", "empty", *BASE[2:]), "--student",
                                 ("empty", "config.json")),
    "no such file": ([], of_file("x.jsonl"), "--prompts math=x.jsonl", ("x.jsonl", "no such")),
    "a folder": ([], of_file("empty"), "--prompts math=empty", ("folder",)),
    "no rows": ([], of_file("none.jsonl"), "--prompts math=none.jsonl", ("none.jsonl", "no rows")),
    "no JSON": ([], of_file("broken.jsonl"), "", ("broken.jsonl", "JSON")),
    "other kind of file": ([], of_file("x.txt"), "x.txt", ("unknown kind",)),
    "no answers for rl": ([], of_file("bare.jsonl"), "bare.jsonl", ("answer", "rl", "domain 'math'")),
    "no such column": (["--columns", "math=promt"], BASE, "--columns math=promt",
                       ("math.jsonl", "'promt'", "'prompt'", "columns there: prompt")),
    "another domain's rows": ([], (*BASE[:2], "--prompts", "sums=labelled.jsonl"), "labelled.jsonl, row 1",
                              ("column 'domain'", "'math'", "domain 'sums'")),
    "unknown reward": (["--reward", "math=maths"], BASE, "--reward math=maths",
                       ("'maths'", "'math'", "valid: math, code")),
    "unknown expert": (["--expert", "math=modle:x"], BASE, "--expert math=modle:x",
                       ("'modle'", "'model'", "rl", "model:PATH")),
    "expert without its path": (["--expert", "math=model"], BASE, "--expert math=model",
                                ("value", "model:PATH")),
    "rl with a value": (["--expert", "math=rl:3"], BASE, "--expert math=rl:3", ("rl", "no value")),
    "no such expert": (["--expert", "math=model:./x"], BASE, "--expert math", ("'./x'", "no such")),
    "block that is no YAML": (["--expert", "math={kind: rl"], BASE, "--expert math={kind: rl", ("YAML",)),
    "block with an unknown key": (["--expert", "math={kind: rl, stepz: 3}"], BASE, "the flags make",
                                  ("domains.math.expert.stepz", "unknown", "'steps'")),
    "unknown benchmark": (["--benchmark", "math=aime42"], BASE, "--benchmark math=aime42",
                          ("no such file", "'aime25'")),
    "benchmark is the training file": (["--benchmark", "math=math.jsonl"], BASE,
                                       "--benchmark math=math.jsonl", ("training prompts", "--hold-out 0.1")),
    "benchmark of no programs": (["--reward", "code=code", "--benchmark", "code=math.jsonl"], BASE,
                                 "--benchmark code=math.jsonl", ("reward 'code'", "EvalPlus's", "task_id")),
    "share": (["--hold-out", "1.5"], BASE, "--hold-out", ("0", "1", "1.5")),
    "too small a share": (["--hold-out", "0.0001"], BASE, "--hold-out 0.0001 of the 40 prompts in math.jsonl",
                          ("none",)),
    "nothing to hold out for": (
        ["--hold-out", "0.1", "--benchmark", "math=aime24", "--benchmark", "code=gsm8k"], BASE, "--hold-out",
        ("no domain", "benchmark")),
    "device": ([], (*BASE[:-2], "--device", "gpu"), "--device gpu", ("'cpu'",)),
    "router without prompts": (["--route", "label"], BASE, "--route", ("--shared-prompts",)),
    "columns without prompts": (["--shared-columns", "a"], BASE, "--shared-columns", ("--shared-prompts",)),
    "unknown router": (["--shared-prompts", "labelled.jsonl", "--route", "lable"], BASE, "--route=lable",
                       ("'lable'", "'label'", "valid: label")),
    "rows without a label": (["--shared-prompts", "bare.jsonl"], BASE, "--shared-prompts",
                             ("bare.jsonl", "2 of 2 rows", "--label-field")),
    "unknown label": (["--shared-prompts", "topics.jsonl", "--label-field", "topic"], BASE,
                      "--shared-prompts",
                      ("topics.jsonl, row 2", "'maht'", "column 'topic'", "'math'", "domains: math, code")),
    "context": ([], ("--student", "student", "--prompts", "math=long.jsonl"), "",
                ("context of 64 tokens", "prompts of 104 tokens")),
    "empty prompt": ([], ("--student", "student", "--prompts", "math=blank.jsonl"), "blank.jsonl",
                     ("prompt", "--columns math=PROMPT,ANSWER")),
}  # fmt: skip
"""Flags, the flags before them, the place with which the message begins, and its facts."""


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_input_gets_one_message_and_leaves_nothing(name, here):
    (here / "empty").mkdir()
    (here / "none.jsonl").write_text("\n")
    (here / "broken.jsonl").write_text('{"prompt": \n')
    (here / "x.txt").write_text("x")
    write_jsonl(here / "bare.jsonl", [{"prompt": "a"}, {"prompt": "b"}])
    write_jsonl(here / "labelled.jsonl", sum_rows(3, domain="math"))
    write_jsonl(here / "topics.jsonl", [{"prompt": "a", "topic": "math"}, {"prompt": "b", "topic": "maht"}])
    write_jsonl(here / "long.jsonl", [{"prompt": "x" * 100, "answer": "1"}])
    write_jsonl(here / "blank.jsonl", [{"prompt": " ", "answer": "1"}])
    arguments, base, place, facts = HOSTILE[name]
    message = refused(*arguments, base=base)
    assert message.startswith(place), message
    says(message.removeprefix(place), *facts)
    assert "\n" not in message and "Traceback" not in message


def test_nothing_is_overwritten(here):
    for name in ("merge.yaml", "protege.schema.json", "math.heldout.jsonl"):
        (here / "new").mkdir(exist_ok=True)
        (here / "new" / name).write_text("mine")
        message = refused("--hold-out", 0.2)
        says(message, f"{here}/new/{name}", "exists", "another folder")
        assert (here / "new" / name).read_text() == "mine"
        (here / "new" / name).unlink()
    (here / "file").write_text("mine")
    assert refused(folder="file").startswith(f"{here}/file/")


def test_all_files_or_none_when_the_disk_refuses(here, monkeypatch):
    from common import files

    real, written = files.write_text, []

    def full(target, text):
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        written.append(target)
        real(target, text)

    monkeypatch.setattr(files, "write_text", full)
    message = refused("--hold-out", 0.2)
    says(message, "cannot be written", "No space left on device")
    assert len(written) == 2 and not any(path.exists() for path in written)
