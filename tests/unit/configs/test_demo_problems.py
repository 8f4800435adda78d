import json
import random
from collections import Counter
from pathlib import Path

import pytest

from configs.demo import problems
from tests.helpers.messages import refuses

ROWS = {name: [json.loads(line) for line in problems.content(name).splitlines()] for name in problems.FILES}


@pytest.mark.parametrize("name", sorted(problems.FILES))
def test_committed_file_is_the_generators_output(name: str) -> None:
    assert (problems.FOLDER / name).read_bytes() == problems.content(name).encode()


def test_write_files_writes_exactly_the_named_files(tmp_path: Path) -> None:
    problems.write_files(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(problems.FILES)
    assert (tmp_path / "code.train.jsonl").read_text() == problems.content("code.train.jsonl")


def test_digest_is_sha256() -> None:
    # sha256("abc"), first and last four bytes, from FIPS 180-2
    assert f"{problems.digest('abc'):064x}"[:8] == "ba7816bf"
    assert f"{problems.digest('abc'):064x}"[-8:] == "f20015ad"


def test_sizes_of_the_spaces() -> None:
    assert len(problems.additions()) == 90 * 90
    assert len(problems.multiplications()) == 8 * 8 * 9
    assert len(problems.programs()) == 7 * 11 * 9
    numbers = [p.number for p in (*problems.additions(), *problems.multiplications())]
    assert numbers == list(range(8676))


@pytest.mark.parametrize("domain", ["math", "code"])
def test_splits_share_no_problem(domain: str) -> None:
    prompts = {split: [row["prompt"] for row in ROWS[f"{domain}.{split}.jsonl"]] for split in problems.SPLITS}
    everything = [prompt for split in prompts.values() for prompt in split]
    assert len(everything) == len(set(everything))
    ids = [row["id"] for split in problems.SPLITS for row in ROWS[f"{domain}.{split}.jsonl"]]
    assert len(ids) == len(set(ids))


def test_swapped_operands_are_in_the_same_split() -> None:
    for kind in (0, 1):
        where = {p.key: split for split in problems.SPLITS for p in problems.math_pools(split)[kind]}
        for key in where:
            left, c = (key.partition("+")[0], key.partition("+")[1:]) if kind else (key, ())
            a, b = left.split("*" if kind else "+")
            assert where[f"{b}{'*' if kind else '+'}{a}" + "".join(c)] == where[key]


def test_one_class_in_eight_is_held_out_and_one_validates() -> None:
    splits = Counter(problems.split_of_classes(f"class {n}" for n in range(80)).values())
    assert splits == {"train": 60, "validation": 10, "heldout": 10}


def test_math_files_have_the_same_mix_of_kinds() -> None:
    for split in problems.SPLITS:
        rows = ROWS[f"math.{split}.jsonl"]
        share = sum("*" not in row["prompt"] for row in rows) / len(rows)
        assert share == pytest.approx(0.6, abs=0.005)


def test_code_files_have_the_same_mix_of_aggregates() -> None:
    by_split = {s: Counter(p.aggregate for p in problems.code_problems(s)) for s in problems.SPLITS}
    # 99 programs of each aggregate: 13 places divisible by 8, 13 of remainder 1, 73 others
    assert set(by_split["heldout"].values()) == {13}
    assert set(by_split["validation"].values()) == {13}
    assert set(by_split["train"].values()) == {73}


def test_answers_of_the_math_files_are_right() -> None:
    for split in problems.SPLITS:
        for row in ROWS[f"math.{split}.jsonl"]:
            kind, _, question = row["prompt"].partition(" ")
            assert kind == "Math:"
            assert eval(question, {"__builtins__": {}}) == int(row["answer"])


def test_smollm2_answers_are_right_and_splits_are_disjoint() -> None:
    for kind, sign in (("add", "+"), ("multiply", "*")):
        train = {frozenset(_operands(row, sign)) for row in ROWS[f"smollm2.{kind}.jsonl"]}
        heldout = {frozenset(_operands(row, sign)) for row in ROWS[f"smollm2.{kind}.heldout.jsonl"]}
        assert not train & heldout


def _operands(row: dict, sign: str) -> tuple[int, int]:
    words = row["prompt"].split()
    a, b = int(words[2]), int(words[4].rstrip("?"))
    assert words[3] == sign
    assert int(row["answer"]) == (a + b if sign == "+" else a * b)
    return a, b


def test_demonstrations_by_hand() -> None:
    arithmetic = problems.Arithmetic
    assert arithmetic(0, 37, 48).demonstration() == r"7+8=15,3+4+1=8;\boxed{85}"
    assert arithmetic(0, 32, 45).demonstration() == r"2+5=7,3+4=7;\boxed{77}"
    assert arithmetic(0, 99, 99).demonstration() == r"9+9=18,9+9+1=19;\boxed{198}"
    assert arithmetic(0, 6, 7, 5).demonstration() == r"6*7=42,42+5=47;\boxed{47}"
    assert arithmetic(0, 37, 48).demonstration(error=-1) == r"7+8=14,3+4+1=8;\boxed{84}"
    program = problems.Program(0, "sum", "squares", "even numbers")
    assert program.prompt == "Code: sum of squares of even numbers in xs"
    assert program.demonstration() == "sum(x**2 for x in xs if x%2==0)"
    assert problems.Program(0, "largest", "", "numbers").prompt == "Code: largest of numbers in xs"


def test_every_demonstration_is_right_and_short() -> None:
    for problem in (*problems.additions(), *problems.multiplications()):
        text = problem.demonstration()
        assert text.endswith(rf";\boxed{{{problem.answer}}}")
        assert len(text) <= problems.MATH_ANSWER_CHARACTERS
        for step in text.partition(";")[0].split(","):
            left, _, right = step.partition("=")
            assert eval(left, {"__builtins__": {}}) == int(right)
    assert max(len(p.demonstration()) for p in problems.programs()) <= problems.CODE_ANSWER_CHARACTERS


def test_corrupted_demonstrations_are_wrong() -> None:
    rng = random.Random(1)
    for problem in problems.multiplications() + problems.additions()[::7]:
        assert rf"\boxed{{{problem.answer}}}" not in problem.corrupted(rng)
    for program in problems.programs():
        wrong = problems.evaluate_all(program.corrupted(rng), problems.BASE_INPUTS)
        assert wrong != program.outputs(problems.BASE_INPUTS)


def test_programs_by_hand() -> None:
    def value(aggregate: str, map_: str, filter_: str, xs: list[int]) -> object:
        return problems.Program(0, aggregate, map_, filter_).outputs([xs])[0]

    assert value("sum", "squares", "even numbers", [1, 2, 3, 4]) == 20
    assert value("largest", "negations", "negative numbers", [-3, 5, -8]) == 8
    assert value("smallest", "remainders by 5", "numbers", [7, -1, 3]) == 2
    assert value("first", "complements to 10", "numbers above 5", [1, 8, 9]) == 2
    assert value("sorted list", "halves", "odd numbers", [7, 2, -3]) == [-2, 3]
    assert value("reversed list", "cubes", "non-multiples of 3", [1, 3, 2]) == [8, 1]
    assert value("list", "successors", "multiples of 3", [3, 4, 0]) == [4, 1]


def test_programs_are_total() -> None:
    for program in problems.programs():
        empty = [] if program.aggregate.endswith("list") else 0
        assert program.outputs([[]]) == [empty]


def test_the_base_inputs_tell_every_two_programs_apart() -> None:
    outputs = {repr(program.outputs(problems.BASE_INPUTS)) for program in problems.programs()}
    assert len(outputs) == 693


def test_code_rows_hold_the_programs_outputs() -> None:
    by_prompt = {program.prompt: program for program in problems.programs()}
    for split in problems.SPLITS:
        for row in ROWS[f"code.{split}.jsonl"]:
            answer = row["answer"]
            names: dict = {}
            exec(answer["prefix"] + by_prompt[row["prompt"]].demonstration(), names)
            assert len(answer["tests"]) == 6
            for test in answer["tests"]:
                assert names[answer["entry_point"]](*test["input"]) == test["output"]


def test_evalplus_reads_the_files_and_tells_right_from_wrong(monkeypatch) -> None:
    humaneval = pytest.importorskip("evalplus.data.humaneval", reason="evalplus is not installed")
    from evalplus.eval import FAIL, PASS, untrusted_check
    from evalplus.gen.util import trusted_exec

    path = problems.FOLDER / "code.heldout.evalplus.jsonl"
    monkeypatch.setattr(humaneval, "HUMANEVAL_OVERRIDE_PATH", str(path))
    tasks = humaneval.get_human_eval_plus()
    assert len(tasks) == 91
    by_prompt = {program.prompt: program for program in problems.programs()}
    rng = random.Random(2)

    def verdict(task: dict, expression: str, inputs: list) -> str:
        truth = task["prompt"] + task["canonical_solution"]
        expected, times = trusted_exec(truth, inputs, "f", record_time=True)
        code = task["prompt"] + expression
        arguments = {"expected": expected, "atol": task["atol"], "ref_time": times, "min_time_limit": 5.0}
        return untrusted_check("humaneval", code, inputs, "f", **arguments)[0]

    for task in list(tasks.values())[::15]:
        program = by_prompt[task["instruction"]]
        assert verdict(task, program.demonstration(), task["base_input"]) == PASS
        assert verdict(task, program.demonstration(), task["plus_input"]) == PASS
        assert verdict(task, program.corrupted(rng), task["base_input"]) == FAIL


def test_unknown_split_is_refused() -> None:
    with refuses("train, validation, heldout", error=ValueError):
        problems.code_problems("test")
