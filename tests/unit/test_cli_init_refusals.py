"""What `protege init` refuses: exit code 2, one message, and nothing is written."""

from __future__ import annotations

import pytest

from tests.unit.init_runner import BASE, prepare, refused
from tests.unit.tiny_model import sum_rows, write_jsonl


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working folder, with models and prompts."""
    monkeypatch.chdir(tmp_path)
    return prepare(tmp_path)


HOSTILE = {
    "no domain": ([], ("--student", "student"), "no domain: --domain NAME and --prompts NAME=FILE, once for"),
    "domain twice": (["--domain", "a", "--domain", "a"], BASE, "--domain a: is given twice"),
    "no prompts": (["--domain", "math"], ("--student", "student"), "domain 'math' has no prompts: --prompts"),
    "no equals sign": (["--reward", "math"], BASE, "--reward math: expected DOMAIN=VALUE, such as --reward"),
    "unknown domain": (["--reward", "maht=exact"], BASE,
        "--reward maht=exact: no domain 'maht'; did you mean 'math'? domains: math, code"),
    "flag twice": (["--reward", "math=exact", "--reward", "math=math"], BASE, "--reward math: is given twic"),
    "prompts of no domain": (["--domain", "a"], BASE, "--prompts math=math.jsonl: no domain 'math'; "),
    "domain's name": ([], ("--student", "student", "--prompts", "a b=math.jsonl"), "--domain: 'a b' is no v"),
    "name with a new line": (["--name", "a\n"], BASE, "--name: 'a\\n' is no valid name"),
    "reserved name": ([], ("--student", "student", "--prompts", "student=math.jsonl"), "--domain: 'student'"),
    "no such student": ([], ("--student", "./nowhere", *BASE[2:]), "--student: './nowhere': no such model f"),
    "student is a file": ([], ("--student", "math.jsonl", *BASE[2:]), "--student: math.jsonl: is a file; a"),
    "student is nonsense": ([], ("--student", "a b: {", *BASE[2:]), "--student: 'a b: {': no such model fol"),
    "student without a config": ([], ("--student", "empty", *BASE[2:]), "--student: empty: no config.json;"),
    "no such file": ([], (*BASE[:2], "--prompts", "math=x.jsonl"), "--prompts math=x.jsonl: x.jsonl: no suc"),
    "a folder": ([], (*BASE[:2], "--prompts", "math=empty"), "--prompts math=empty: empty: is a folder"),
    "no rows": ([], (*BASE[:2], "--prompts", "math=none.jsonl"), "--prompts math=none.jsonl: none.jsonl: ho"),
    "no JSON": ([], (*BASE[:2], "--prompts", "math=broken.jsonl"), "broken.jsonl"),
    "other kind of file": ([], (*BASE[:2], "--prompts", "math=x.txt"), "x.txt: unknown kind of prompt file;"),
    "no answers for rl": ([], (*BASE[:2], "--prompts", "math=bare.jsonl"),
        "bare.jsonl: no column looks like the answer, which expert rl of domain 'math' is trained on; "),
    "no such column": (["--columns", "math=promt"], BASE,
        "--columns math=promt: math.jsonl has no column 'promt'; did you mean 'prompt'? columns there: prom"),
    "another domain's rows": ([], (*BASE[:2], "--prompts", "sums=labelled.jsonl"),
        "labelled.jsonl, row 1: column 'domain' says 'math', and the file is given for domain 'sums'; name"),
    "unknown reward": (["--reward", "math=maths"], BASE,
        "--reward math=maths: unknown reward 'maths'; did you mean 'math'? valid: math, code, "),
    "unknown expert": (["--expert", "math=modle:x"], BASE,
        "--expert math=modle:x: unknown expert 'modle'; did you mean 'model'? valid: rl, model:PATH, adapte"),
    "expert without its path": (["--expert", "math=model"], BASE, "--expert math=model: needs a value, mode"),
    "rl with a value": (["--expert", "math=rl:3"], BASE, "--expert math=rl:3: rl takes no value; options ar"),
    "no such expert": (["--expert", "math=model:./x"], BASE, "--expert math: './x': no such model folder"),
    "block that is no YAML": (["--expert", "math={kind: rl"], BASE, "--expert math={kind: rl: not valid YAM"),
    "block with an unknown key": (["--expert", "math={kind: rl, stepz: 3}"], BASE,
        "the flags make: domains.math.expert.stepz: unknown key; did you mean 'steps'? valid keys: "),
    "unknown benchmark": (["--benchmark", "math=aime42"], BASE,
        "--benchmark math=aime42: no such file, and no standard benchmark; did you mean 'aime25'? standard "),
    "benchmark is the training file": (["--benchmark", "math=math.jsonl"], BASE,
        "--benchmark math=math.jsonl: is the file of the training prompts; --hold-out 0.1 splits it"),
    "benchmark of no programs": (["--reward", "code=code", "--benchmark", "code=math.jsonl"], BASE,
        "--benchmark code=math.jsonl: reward 'code' is judged by a file in EvalPlus's format (fields task_i"),
    "share": (["--hold-out", "1.5"], BASE, "--hold-out: expected a share between 0 and 1, such as 0.1; got"),
    "too small a share": (["--hold-out", "0.0001"], BASE,
        "--hold-out 0.0001 of the 40 prompts in math.jsonl leaves none to hold out; choose another share"),
    "nothing to hold out for": (
        ["--hold-out", "0.1", "--benchmark", "math=aime24", "--benchmark", "code=gsm8k"], BASE,
        "--hold-out: no domain has prompts of its own and no benchmark to be held out for"),
    "device": ([], (*BASE[:-2], "--device", "gpu"), "--device gpu: unknown device; did you mean 'cpu'? vali"),
    "router without prompts": (["--route", "label"], BASE, "--route: is read with --shared-prompts only; le"),
    "columns without prompts": (["--shared-columns", "a"], BASE, "--shared-columns: is read with --shared-p"),
    "unknown router": (["--shared-prompts", "labelled.jsonl", "--route", "lable"], BASE,
        "--route=lable: unknown router 'lable'; did you mean 'label'? valid: label"),
    "rows without a label": (["--shared-prompts", "bare.jsonl"], BASE,
        "--shared-prompts: bare.jsonl: 2 of 2 rows name no domain in any column; --label-field names the la"),
    "unknown label": (["--shared-prompts", "topics.jsonl", "--label-field", "topic"], BASE,
        "--shared-prompts: topics.jsonl, row 2: label 'maht' (column 'topic') names no domain; did you mean "
        "'math'? domains: math, code"),
    "context": ([], ("--student", "student", "--prompts", "math=long.jsonl"),
        "the student's context of 64 tokens leaves no room for answers to prompts of 104 tokens; "),
    "empty prompt": ([], ("--student", "student", "--prompts", "math=blank.jsonl"),
        "blank.jsonl: no column looks like the prompt in every row; --columns math=PROMPT,ANSWER names it; "),
}  # fmt: skip


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
    arguments, base, expected = HOSTILE[name]
    message = refused(*arguments, base=base)
    assert message.startswith(expected.replace("{here}", str(here))), message
    assert "\n" not in message and "Traceback" not in message


def test_nothing_is_overwritten(here):
    for name in ("merge.yaml", "protege.schema.json", "math.heldout.jsonl"):
        (here / "new").mkdir(exist_ok=True)
        (here / "new" / name).write_text("mine")
        message = refused("--hold-out", 0.2)
        assert message == f"{here}/new/{name}: exists, and init overwrites nothing; name another folder"
        assert (here / "new" / name).read_text() == "mine"
        (here / "new" / name).unlink()
    (here / "file").write_text("mine")
    assert refused(folder="file").startswith(f"{here}/file/")


def test_all_files_or_none_when_the_disk_refuses(here, monkeypatch):
    from trainer import files

    real, written = files.write_text, []

    def full(target, text):
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        written.append(target)
        real(target, text)

    monkeypatch.setattr(files, "write_text", full)
    message = refused("--hold-out", 0.2)
    assert message.endswith("cannot be written: No space left on device")
    assert len(written) == 2 and not any(path.exists() for path in written)
