"""`protege init` and `protege schema` through the command line: what is written, what each flag changes, what
is refused."""

from __future__ import annotations

import json
from typing import get_args

import pytest
import yaml

from configs import schema_doc
from configs.blocks.baselines import BaselineName
from configs.blocks.objective import EstimatorName
from configs.load import load_config
from merging.cli import init as cli_init
from merging.init import blocks
from merging.init.text import as_comment, as_yaml
from tests.helpers.cli_runner import protege, subprocess_protege
from tests.helpers.init_runner import BASE, GIVEN, made, prepare, refused
from tests.helpers.messages import says
from tests.helpers.paths import DEMO
from tests.helpers.tiny_model import sum_rows, write_jsonl


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working folder, with models and prompts."""
    monkeypatch.chdir(tmp_path)
    return prepare(tmp_path)


# --------------------------------------------------------------------------------- what is written


def test_the_written_config_loads_and_check_accepts_it(here):
    new = made(*GIVEN)
    assert new.files == ["merge.yaml", "protege.schema.json"]
    assert [(name, d.expert.path, d.reward) for name, d in new.config.domains.items()] == [
        ("math", str(here / "math_expert"), "number"),
        ("code", str(here / "code_expert"), "exact"),
    ]
    assert new.config.student == str(here / "student") and new.config.name == "new"
    assert new.out.splitlines()[-3:] == [
        "  protege check new/merge.yaml", "  protege route new/merge.yaml", "  protege merge new/merge.yaml",
    ]  # fmt: skip
    checked = protege("check", new.path)
    assert checked.code == 0, checked.err


def test_on_the_demos_files_check_accepts_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    new = made(
        "--reward", "math=math",
        "--benchmark", f"math={DEMO / 'math.heldout.jsonl'}",
        "--benchmark", f"code={DEMO / 'code.heldout.evalplus.jsonl'}",
        base=(
            "--student", DEMO / "student", "--domain", "math", "--domain", "code", "--device", "cpu",
            "--prompts", f"math={DEMO / 'math.train.jsonl'}",
            "--prompts", f"code={DEMO / 'code.train.jsonl'}",
        ),
    )  # fmt: skip
    checked = protege("check", new.path)
    assert checked.code == 0, checked.err
    assert checked.out.endswith("new: ready\n") and "prompts  code: 511" in checked.out
    math, code = (domain.benchmarks[0] for domain in new.config.domains.values())
    assert (math.kind, math.name, math.grader) == ("math", "math_heldout", "boxed")
    assert (code.kind, code.prompt_field, code.completion) == ("evalplus", "instruction", "append")
    assert new.config.objective.estimator.kind == "full"
    training = new.config.training
    assert (training.max_prompt_tokens, training.max_response_tokens) == (72, 80)


def test_the_demos_prompts_are_held_out_and_check_accepts_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = (
        "--student", DEMO / "student", "--device", "cpu",
        "--prompts", f"math={DEMO / 'math.train.jsonl'}",
        "--prompts", f"code={DEMO / 'code.train.jsonl'}",
    )  # fmt: skip
    new = made("--hold-out", 0.1, base=base)
    assert protege("check", new.path).out.endswith("new: ready\n")
    sides = {
        name: (tmp_path / "new" / name).read_text().splitlines() for name in new.files if "." in name[:-6]
    }
    assert len(sides["math.train.jsonl"]) + len(sides["math.heldout.jsonl"]) == 1080
    says(new.out, f"math: {len(sides['math.train.jsonl'])} of 1080 prompts")
    code = new.config.domains["code"]
    assert code.benchmarks == () and code.validation.path.name == "code.heldout.jsonl"
    says(new.out, "`protege probe`", "no own kind of benchmark", "reward")
    assert len(sides["code.train.jsonl"]) + len(sides["code.heldout.jsonl"]) == 511


def test_it_starts_with_the_editors_line_and_the_schema_lies_beside_it(here):
    jsonschema = pytest.importorskip("jsonschema")
    new = made(*GIVEN, "--hold-out", 0.2)
    assert new.text.splitlines()[0] == "# yaml-language-server: $schema=./protege.schema.json"
    schema = json.loads((here / "new" / "protege.schema.json").read_text(encoding="utf-8"))
    assert schema == json.loads(schema_doc.json_schema())
    jsonschema.Draft202012Validator(schema).validate(new.data)


def test_the_comments_name_every_alternative_that_the_schema_has(here):
    comments = [line for line in made().text.splitlines() if line.lstrip().startswith("#")]
    for alternatives in (
        blocks.EXPERTS, blocks.REWARDS, blocks.BENCHMARKS, blocks.STANDARD, blocks.ROUTERS,
        get_args(EstimatorName), get_args(BaselineName),
    ):  # fmt: skip
        assert any(", ".join(alternatives) in line for line in comments), alternatives


def test_held_out_problems_are_in_no_training_file(here):
    shared = [*sum_rows(40, domain="math"), {"prompt": "more", "answer": "1", "domain": "code"}]
    write_jsonl(here / "all.jsonl", shared)
    new = made(*GIVEN, "--hold-out", 0.3, "--shared-prompts", "all.jsonl")

    def asked(name):
        return {json.loads(line)["prompt"] for line in (here / "new" / name).read_text().splitlines()}

    held = asked("math.heldout.jsonl")
    assert held and not held & (asked("math.train.jsonl") | asked("shared.train.jsonl"))
    assert held | asked("math.train.jsonl") == {row["prompt"] for row in sum_rows(40)}
    assert new.config.prompts.path.name == "shared.train.jsonl"
    says(new.out, f"{len(held)} left out", "held out")
    benchmark = new.config.domains["math"].benchmarks[0]
    assert (benchmark.name, benchmark.grader) == ("math_heldout", "number")
    checked = protege("check", new.path)
    assert checked.code == 0 and "repeat problems" not in checked.out, checked.err


def test_one_domain_needs_no_baseline(here):
    new = made(base=("--student", "student", "--prompts", "math=math.jsonl", "--device", "cpu"))
    assert new.config.baselines == () and protege("check", new.path).code == 0


def test_it_may_be_written_among_the_users_files(here):
    new = made(*GIVEN, folder=".")
    assert new.config.domains["math"].prompts.path == here / "math.jsonl"
    assert new.data["domains"]["math"]["prompts"] == {"kind": "file", "path": "math.jsonl"}
    assert new.data["student"] == "./student"


# -------------------------------------------------------------------------------- what flags change


CHANGES = {
    "student": (["--student", "math_expert"], {"student"}),
    "name": (["--name", "other"], {"name"}),
    "reward": (["--reward", "math=exact"], {"domains"}),
    "expert by RL": (["--expert", "math=rl"], {"domains"}),
    "adapter": (["--expert", "math=adapter:./code_expert"], {"domains"}),
    "expert as a block": (["--expert", "math={kind: rl, steps: 3, learning_rate: 1e-6}"], {"domains"}),
    "published benchmark": (["--benchmark", "math=aime24", "--benchmark", "math=gsm8k"], {"domains"}),
    "benchmark as a block": (["--benchmark", "math={kind: standard, name: aime24, limit: 3}"], {"domains"}),
    "columns": (["--columns", "math=prompt,"], {"domains"}),
    "held out": (["--hold-out", "0.2"], {"domains"}),
    "gpus": (["--gpus", "3"], {"hardware", "training"}),
    "labels' column": (["--label-field", "topic"], {"routing"}),
    "shared prompts": (["--shared-prompts", "all.jsonl"], {"prompts"}),
    "the shared prompts' columns": (
        ["--shared-prompts", "all.jsonl", "--shared-columns", "prompt,"],
        {"prompts"},
    ),
    "router": (["--shared-prompts", "all.jsonl", "--route", "{kind: label, field: domain}"], {"prompts"}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_each_flag_changes_its_sections_and_no_other(name, here):
    write_jsonl(here / "all.jsonl", [{"prompt": f"x{i}", "answer": "1", "domain": "math"} for i in range(4)])
    flags, sections = CHANGES[name]
    base = BASE[2:] if "--student" in flags else BASE
    experts = GIVEN[2:] if name in ("expert by RL", "adapter", "expert as a block") else GIVEN
    plain = made(*GIVEN, "--name", "x", folder="plain").data
    named = () if name == "name" else ("--name", "x")
    changed = made(*flags, *experts, *named, folder="changed", base=base).data
    keys = plain.keys() | changed.keys()
    assert {key for key in keys if plain.get(key) != changed.get(key)} == sections


def test_flags_that_two_blocks_of_a_domain_share_arrive_there(here):
    math = made(
        "--expert", "math={kind: rl, steps: 3, learning_rate: 1e-6}", "--benchmark", "math=aime24",
        "--benchmark", "math={kind: standard, name: gsm8k, limit: 3}", "--columns", "math=prompt,answer",
    ).config.domains["math"]  # fmt: skip
    assert (math.expert.steps, math.expert.learning_rate) == (3, 1e-6)
    assert [(b.name, b.limit) for b in math.benchmarks] == [("aime24", None), ("gsm8k", 3)]


def test_the_device_decides_the_sizes(here):
    for device, steps in (("cpu", 40), ("cuda", 50)):
        base = (*BASE[:-2], "--columns", "math=prompt,answer")
        wide = "--student", "org/unknown-model"
        new = made(*wide, "--device", device, folder=device, base=base[2:])
        assert (new.config.hardware.device, new.config.training.steps) == (device, steps)


def test_held_out_problems_are_judged_as_the_reward_says(here):
    """By its own block, where the reward is one; `exact` has the same kind of benchmark."""
    pattern = "{kind: regex, pattern: '([0-9]+)', group: 1}"
    new = made(*GIVEN, "--hold-out", 0.2, "--reward", f"math={pattern}", "--reward", "code=exact")
    math, code = (domain.benchmarks[0] for domain in new.config.domains.values())
    assert (math.kind, math.grader) == ("graded", new.config.domains["math"].reward)
    assert (code.kind, code.grader) == ("graded", "exact")
    assert protege("check", new.path).code == 0


@pytest.mark.parametrize(
    "router, kind",
    [
        ("learned", "learned"),
        ("agreement", "agreement"),
        ("{kind: rules, rules: [{domain: code, regex: def}], otherwise: {domain: math}}", "rules"),
    ],
)
def test_rows_without_a_label_find_a_router(here, router, kind):
    write_jsonl(here / "open.jsonl", [{"prompt": f"def g{i} or {i}"} for i in range(6)])
    new = made(*GIVEN, "--shared-prompts", "open.jsonl", "--shared-columns", "prompt", "--route", router)
    assert new.config.routing.kind == kind
    checked = protege("check", new.path, "--set", "routing.otherwise=drop") if kind == "learned" else None
    checked = checked or protege("check", new.path)
    assert checked.code == 0, checked.err


def test_shared_prompts_may_be_all_there_is(here):
    rows = [{"question": f"{n} {i}", "solution": "1", "topic": n} for n in ("math", "code") for i in range(3)]
    write_jsonl(here / "all.jsonl", rows)
    new = made(
        "--domain", "math", "--domain", "code", "--reward", "math=exact", "--reward", "code=exact",
        "--shared-prompts", "all.jsonl", base=("--student", "student", "--device", "cpu"),
    )  # fmt: skip
    assert new.config.routing.field == "topic"
    assert new.data["prompts"]["columns"] == {"prompt": "question", "answer": "solution"}
    assert protege("check", new.path).code == 0
    assert "math: 3 prompts, 3 used" in protege("route", new.path).out


def test_a_csv_and_a_parquet_file_are_read_and_split(here):
    import pyarrow
    import pyarrow.parquet

    (here / "m.csv").write_text("question,answer\n" + "".join(f"{i} + 1,{i + 1}\n" for i in range(50)))
    table = pyarrow.table({"problem": [f"say {i}" for i in range(50)], "target": ["a"] * 50})
    pyarrow.parquet.write_table(table, here / "c.parquet")
    base = ("--student", "student", "--prompts", "m=m.csv", "--prompts", "c=c.parquet", "--device", "cpu")
    new = made("--hold-out", 0.2, base=base)
    assert new.config.domains["m"].reward == "number"
    assert new.data["domains"]["c"]["prompts"]["columns"] == {"prompt": "problem", "answer": "target"}
    assert protege("check", new.path).code == 0


# -------------------------------------------------------------------------------------- questions


def answered(monkeypatch, *lines: str, arguments=("--device", "cpu")):
    from typer.testing import CliRunner

    from merging.cli.main import app

    monkeypatch.setattr(cli_init, "on_terminal", lambda: True)
    return CliRunner().invoke(app, ["init", "new", *arguments], input="\n".join(lines) + "\n")


def test_without_flags_on_a_terminal_it_asks(here, monkeypatch):
    result = answered(
        monkeypatch, "student", "", "math, code",
        "math.jsonl", "", "", "",
        "code.jsonl", "model:code_expert", "exact", "",
        "0.25", "y",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    config = load_config(here / "new" / "merge.yaml").config
    assert [domain.expert.kind for domain in config.domains.values()] == ["rl", "model"]
    assert [domain.reward for domain in config.domains.values()] == ["number", "exact"]
    assert config.domains["math"].benchmarks[0].path == here / "new" / "math.heldout.jsonl"


def test_nothing_is_written_on_a_no_and_nothing_asked_on_yes(here, monkeypatch):
    result = answered(monkeypatch, "n", arguments=(*BASE, *GIVEN))
    assert result.exit_code == 0 and not (here / "new").exists()
    result = answered(monkeypatch, arguments=(*BASE, *GIVEN, "--yes"))
    assert result.exit_code == 0 and (here / "new" / "merge.yaml").exists()


def test_without_a_terminal_or_with_yes_a_missing_flag_is_named(here, monkeypatch):
    message = "--student is missing: the base student's model folder or hub name"
    assert refused(base=()) == message
    result = answered(monkeypatch, arguments=("--yes",))
    assert (result.exit_code, result.stderr) == (2, f"error: {message}\n")


def test_a_hostile_column_or_file_name_cannot_leave_its_comment(here):
    name = "m\nname: stolen #.jsonl"
    write_jsonl(
        here / name, [{"question\nstudent: x": 1, "prompt": f"{i} + 1", "answer": i + 1} for i in range(3)]
    )
    base = ("--student", "student", "--prompts", f"math={name}", "--device", "cpu")
    new = made("--name", "x", base=base)
    assert (new.config.name, new.config.student) == ("x", str(here / "student"))
    assert new.config.domains["math"].prompts.path == here / name
    assert as_comment("a\nb\u2028c\x85d") == "a b c d"


@pytest.mark.parametrize(
    "value",
    [
        "on",
        "1",
        "1e-6",
        "null",
        "a: b",
        "# x",
        "{",
        "a\nb",
        "\x85",
        "\u2028",
        "'\"",
        "",
        1e-6,
        True,
        None,
        [],
        {"a": []},
    ],
)
def test_every_value_is_one_line_that_loads_as_itself(value):
    from configs.reading.yaml_text import yaml_loader

    text = as_yaml({"key": value})
    assert len(text.splitlines()) == 1
    assert yaml.load(text, Loader=yaml_loader()) == {"key": value}


# ------------------------------------------------------------------------------------------ schema


def test_schema_is_printed_or_written(tmp_path):
    printed = protege("schema")
    assert printed.out == schema_doc.json_schema()
    assert protege("schema", "--out", tmp_path / "s.json").out == f"wrote {tmp_path / 's.json'}\n"
    assert (tmp_path / "s.json").read_text(encoding="utf-8") == printed.out
    (tmp_path / "file").write_text("")
    refusal = protege("schema", "--out", tmp_path / "file" / "s.json")
    assert refusal.code == 2 and len(refusal.errors) == 1


def test_in_a_process_of_its_own(here):
    ended = subprocess_protege("init", "new", *BASE, *GIVEN, cwd=here)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert load_config(here / "new" / "merge.yaml").config.name == "new"
