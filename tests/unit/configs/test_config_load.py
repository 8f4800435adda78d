"""Config loading: what is read, how paths resolve, and the one message for each mistake."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from common.errors import ConfigError
from configs import schema_doc
from configs.blocks.experts import RLExpert
from configs.load import load_config
from configs.places import registry_root
from tests.helpers.messages import say_each, says

GOOD = """\
name: demo
student: ./student
domains:
  math:
    expert: {kind: rl, steps: 5, learning_rate: 1e-6}
    prompts: {kind: file, path: data/a.jsonl}
    reward: math
    benchmarks: [aime24, {kind: math, name: mine, path: b.jsonl}]
"""


EXPERT_KINDS = ("rl", "model", "adapter", "registered")
BENCHMARKS = (
    "aime24", "aime25", "gsm8k", "hmmt25_feb", "hmmt25_nov", "humaneval_plus", "livecodebench_v6", "math500",
    "mbpp_plus",
)  # fmt: skip
BASELINES = (
    "opd", "interpolation", "sft", "grpo", "average", "task_arithmetic", "ties", "dare", "extrapolation",
    "oracle",
)  # fmt: skip
NAMES = (*BASELINES[:4], "opd_more", *BASELINES[4:], "teacher_more")
"""`opd_more` needs a polish, `teacher_more` experts that are built too."""


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "c.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def refusal(path: Path, *overrides: str) -> list[str]:
    """The messages, with the config's path shortened to CONFIG."""
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return [problem.replace(str(path), "CONFIG") for problem in caught.value.problems]


def test_reads_values_and_keeps_the_text(write, tmp_path):
    loaded = load_config(write(GOOD))
    math = loaded.config.domains["math"]
    assert loaded.text == GOOD
    assert loaded.path == tmp_path / "c.yaml"
    assert (math.expert.steps, math.expert.learning_rate) == (5, 1e-6)
    assert math.benchmarks[0].kind == "standard" and math.benchmarks[0].name == "aime24"
    assert loaded.config.training.prompts_per_step == 1024


def test_relative_paths_are_read_from_the_configs_folder(write, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    config = load_config(write(GOOD + "registry: ../reg\n")).config
    assert config.student == str(tmp_path / "student")
    assert config.domains["math"].prompts.path == tmp_path / "data/a.jsonl"
    assert config.domains["math"].benchmarks[1].path == tmp_path / "b.jsonl"
    assert config.registry == tmp_path.parent / "reg"


def test_hub_name_stays_unless_the_folder_is_there(write, tmp_path):
    path = write(GOOD.replace("./student", "org/model"))
    assert load_config(path).config.student == "org/model"
    (tmp_path / "org/model").mkdir(parents=True)
    assert load_config(path).config.student == str(tmp_path / "org/model")


@pytest.mark.parametrize("kind", ["model", "adapter"])
def test_expert_path_resolves_like_the_student(write, tmp_path, kind):
    text = GOOD.replace("{kind: rl, steps: 5, learning_rate: 1e-6}", f"{{kind: {kind}, path: ../expert}}")
    assert load_config(write(text)).config.domains["math"].expert.path == str(tmp_path.parent / "expert")


def test_overrides_are_yaml_and_reach_into_lists(write, tmp_path):
    loaded = load_config(
        write(GOOD),
        [
            "training.steps=7",
            "baselines=[opd, average]",
            "domains.math.benchmarks.1.limit=3",
            "domains.math.prompts.path=other.jsonl",
            "domains.math.objective={reward_scale: 0.5}",
        ],
    )
    config = loaded.config
    assert config.training.steps == 7
    assert [baseline.kind for baseline in config.baselines] == ["opd", "average"]
    assert config.domains["math"].benchmarks[1].limit == 3
    assert config.domains["math"].prompts.path == tmp_path / "other.jsonl"
    assert config.reward_scale_of("math") == 0.5
    assert loaded.overrides[0] == "training.steps=7"


def test_baselines_by_name_or_block(write):
    loaded = load_config(write(GOOD), [f"baselines=[{', '.join(BASELINES)}]"])
    assert [baseline.kind for baseline in loaded.config.baselines] == list(BASELINES)
    opd, between, sft, grpo, average, arithmetic, ties, dare, extrapolation, oracle = loaded.config.baselines
    assert (opd.reward_scale, between.reward_scale) == (1.0, 0.5)
    assert loaded.config.distilled_baselines() == (opd, between) and loaded.config.compares_oracle()
    assert oracle not in loaded.config.model_baselines()
    assert loaded.config.trained_baselines() == (opd, between, sft, grpo) and grpo.samples_per_prompt == 8
    assert loaded.config.weight_baselines() == (average, arithmetic, ties, dare, extrapolation)
    assert (arithmetic.scale, ties.density, ties.scale) == (1.0, 0.2, 1.0)
    assert (dare.drop_rate, dare.scale, dare.seed, extrapolation.factor) == (0.9, 1.0, 42, 1.25)
    mixed = "baselines: [opd, {kind: ties, density: 0.5}]\n"
    config = load_config(write(GOOD + mixed), ["baselines.1.scale=2"]).config
    assert config.trains_opd() and config.weight_baselines() == (config.baselines[1],)
    assert config.baselines[1].model_dump() == {"kind": "ties", "density": 0.5, "scale": 2.0}
    assert load_config(write(GOOD)).config.baselines == (average,)
    assert load_config(write(GOOD), ["baselines=[]"]).config.baselines == ()


def test_the_json_schema_takes_names_and_blocks():
    import json

    name, block = json.loads(schema_doc.json_schema())["properties"]["baselines"]["items"]["anyOf"]
    assert name["enum"] == list(NAMES)
    assert list(block["discriminator"]["mapping"]) == sorted(NAMES)


def test_a_domain_may_have_a_weight_and_keep_the_global_lambda(write):
    config = load_config(write(GOOD), ["domains.math.objective={weight: 2.0}"]).config
    assert config.reward_scale_of("math") == config.objective.reward_scale
    assert config.loss_weight_of("math") == 2.0
    others = [name for name in config.domains if name != "math"]
    assert all(config.loss_weight_of(name) == 1.0 for name in others)


def test_override_finds_a_domain_with_a_dot_in_its_name(write):
    loaded = load_config(write(GOOD.replace("  math:", "  math.easy:")), ["domains.math.easy.expert.steps=9"])
    assert loaded.config.domains["math.easy"].expert.steps == 9


def test_an_override_changes_one_place_of_a_value_that_an_alias_shares(write):
    shared = GOOD.replace("expert: {", "expert: &rl {")
    shared += "  code:\n    expert: *rl\n    prompts: {kind: file, path: c.jsonl}\n    reward: code\n"
    domains = load_config(write(shared), ["domains.math.expert.steps=9"]).config.domains
    assert (domains["math"].expert.steps, domains["code"].expert.steps) == (9, 5)


def test_a_resolved_config_written_as_yaml_loads_as_itself(write):
    config = load_config(write(GOOD), ["training.learning_rate=3e-7"]).config
    text = yaml.safe_dump(config.model_dump(mode="json"))
    assert load_config(write(text)).config == config


MISTAKES: dict[str, tuple[tuple[str, str], str, tuple[str, ...]]] = {
    "unknown key": (
        ("steps: 5", "stepz: 5"),
        "5: domains.math.expert.stepz",
        ("unknown", "'steps'", *RLExpert.model_fields),
    ),
    "text for a number": (
        ("steps: 5", "steps: five"),
        "5: domains.math.expert.steps",
        ("whole number", "'five'"),
    ),
    "quoted number": (("steps: 5", "steps: '5'"), "5: domains.math.expert.steps", ("whole number", "'5'")),
    "boolean for a number": (
        ("steps: 5", "steps: true"),
        "5: domains.math.expert.steps",
        ("whole number", "True"),
    ),
    "fraction": (("steps: 5", "steps: 5.5"), "5: domains.math.expert.steps", ("whole number", "5.5")),
    "out of range": (("steps: 5", "steps: 0"), "5: domains.math.expert.steps", ("above 0", "got 0")),
    "unknown kind": (
        ("kind: rl", "kind: rll"),
        "5: domains.math.expert.kind",
        ("unknown", "'rll'", "'rl'", *EXPERT_KINDS),
    ),
    "no kind": (
        ("kind: rl, ", ""),
        "5: domains.math.expert",
        ("`kind`", "missing", *EXPERT_KINDS),
    ),
    "adapter's scale without an adapter": (
        ("steps: 5", "lora_alpha: 5"),
        "5: domains.math.expert",
        ("lora_alpha", "lora_rank"),
    ),
    "domain without reward": (("    reward: math\n", ""), "4: domains.math.reward", ("required", "missing")),
    "unknown reward": (
        ("reward: math", "reward: maths"),
        "7: domains.math.reward",
        ("'maths'", "'math'", "math", "code", "exact", "number"),
    ),
    "unknown benchmark": (
        ("[aime24", "[aime42"),
        "8: domains.math.benchmarks[0]",
        ("'aime42'", "'aime25'", *BENCHMARKS),
    ),
    "mapping expected": (
        ("{kind: file, path: data/a.jsonl}", "a.jsonl"),
        "6: domains.math.prompts",
        ("mapping", "'a.jsonl'"),
    ),
    "list expected": (
        ("[aime24, {kind: math, name: mine, path: b.jsonl}]", "aime24"),
        "8: domains.math.benchmarks",
        ("list", "'aime24'"),
    ),
    "infinite": (
        ("learning_rate: 1e-6", "learning_rate: .inf"),
        "5: domains.math.expert.learning_rate",
        ("finite", "inf"),
    ),
    "key twice": (("student: ./student", "name: x"), "2", ("'name'", "twice", "line 1")),
    "yaml syntax": (
        ("student: ./student", "student: [x"),
        "3",
        ("YAML", "','", "']'", "':'", "list", "line 2"),
    ),
    "recursive alias": (("student: ./student", "student: &x [*x]"), "2", ("YAML", "alias", "contains")),
    "the reference's name": (("  math:", "  reference:"), "1", ("domain 'reference'", "reference model")),
    "the student's name": (("  math:", "  student:"), "1", ("domain 'student'", "student model")),
    "whole-config rule": (
        ("    prompts: {kind: file, path: data/a.jsonl}\n", ""),
        "1",
        ("domain 'math'", "domains.math.prompts", "top-level `prompts`"),
    ),
    "file name of another benchmark's programs": (
        ("name: mine", "name: aime24.evalplus.sampled"),
        "1",
        ("benchmark 'aime24.evalplus.sampled'", "'aime24'", "name"),
    ),
}
"""What is replaced by what, the message's place (line and key), and its facts."""


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_is_one_message_with_its_line(write, mistake):
    (old, new), place, facts = MISTAKES[mistake]
    assert old in GOOD
    (problem,) = refusal(write(GOOD.replace(old, new, 1)))
    assert problem.startswith(f"CONFIG:{place}: ")
    says(problem, *facts)


def test_several_mistakes_are_several_messages(write):
    problems = refusal(write(GOOD.replace("steps: 5", "stepz: 5").replace("reward: math", "reward: 3")))
    places = [problem.split(": ")[1] for problem in problems]
    assert places == ["domains.math.expert.stepz", "domains.math.reward"]


@pytest.mark.parametrize(
    ("override", "facts"),
    [
        ("training.stepz=7", ("training.stepz", "unknown", "'steps'")),
        ("training", ("KEY=VALUE",)),
        ("name.x=7", ("name", "'demo'")),
        ("domains.math.benchmarks.7.limit=7", ("'7'", "position")),
        ("student=[1", ("YAML",)),
        ("training.steps=x", ("training.steps", "whole number")),
        ("baselines=[averag]", ("baselines[0].kind", "'averag'", "'average'", *NAMES)),
        ("baselines=[opd, {kind: ties, densty: 0.5}]", ("baselines[1].densty", "unknown", "'density'")),
        ("baselines=[ties, {kind: ties, density: 0.5}]", ("baselines", "'ties'", "twice")),
        ("baselines=average", ("baselines", "list", "'average'")),
        ("baselines=[{kind: ties, density: 0}]", ("baselines[0].density", "above 0", "got 0")),
        ("baselines=[{kind: dare, drop_rate: 1}]", ("baselines[0].drop_rate", "below 1", "got 1")),
        ("baselines=[{kind: dare, seed: 0.5}]", ("baselines[0].seed", "whole number")),
    ],
)
def test_override_mistakes_name_the_override(write, override, facts):
    (problem,) = refusal(write(GOOD), override)
    assert problem.startswith(f"--set {override}: ")
    says(problem.removeprefix(f"--set {override}: "), *facts)


@pytest.mark.parametrize(
    ("text", "place", "facts"),
    [
        ("", "CONFIG", ("empty", "`name`", "`student`", "`domains`")),
        ("# only a comment\n", "CONFIG", ("empty", "`name`", "`student`", "`domains`")),
        ("- a\n", "CONFIG:1", ("mapping", "`name: ...`", "list")),
        ("just text\n", "CONFIG:1", ("mapping", "`name: ...`", "'just text'")),
        ("1: 2\n", "CONFIG:1", ("1", "text", "quotes")),
    ],
)
def test_files_that_are_no_config(write, text, place, facts):
    (problem,) = refusal(write(text))
    assert problem.startswith(f"{place}: ")
    says(problem.removeprefix(f"{place}: "), *facts)


def test_missing_file_folder_and_binary(tmp_path):
    say_each(refusal(tmp_path / "none.yaml"), ("CONFIG", "no such file"))
    say_each(refusal(tmp_path), ("CONFIG", "folder", "YAML file"))
    (tmp_path / "b.yaml").write_bytes(b"name: \xff\n")
    say_each(refusal(tmp_path / "b.yaml"), ("CONFIG", "UTF-8", "byte 6"))


def test_python_tags_are_not_constructed(write):
    (problem,) = refusal(write("name: !!python/object/apply:os.getcwd []\n"))
    assert problem.startswith("CONFIG:1: ")
    says(problem, "YAML", "python/object/apply:os.getcwd")


def test_registry_root(monkeypatch, tmp_path):
    monkeypatch.setenv("PROTEGE_HOME", str(tmp_path))
    assert registry_root() == tmp_path
    assert registry_root(Path("/x")) == Path("/x")
    monkeypatch.delenv("PROTEGE_HOME")
    assert registry_root() == Path.home() / ".protege"


@pytest.mark.parametrize("path", list(schema_doc.files()), ids=lambda path: path.name)
def test_generated_reference_is_up_to_date(path):
    assert path.read_text(encoding="utf-8") == schema_doc.files()[path], "run python -m configs.schema_doc"


def test_reference_names_every_key_with_its_meaning():
    text = schema_doc.markdown()
    assert "| `steps` | whole number (above 0) | `500` | GRPO steps. |" in text
    assert "| `name` | text | required |" in text
    assert "| `kind` | `file` | required |" in text
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    documented = [row for row in rows if row.split(" | ")[3].strip(" |")]
    undocumented = [row for row in rows if row not in documented]
    assert all(row.startswith("| `name` |") or row.startswith("| `path` |") for row in undocumented)


def test_configs_import_no_torch():
    code = "import sys, configs.load, configs.schema, configs.reading.explain; print('torch' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "False"
