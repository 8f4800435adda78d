"""Importing an expert: what is refused, what is measured, what is stored."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from common.errors import ConfigError
from configs.load import load_config
from eval import jobs
from eval.benchmarks import BenchmarkTask
from eval.records import Completion, Grade, Problem, Verdict
from teachers.imports import ImportOrder, import_expert
from teachers.models.fingerprint import fingerprint
from teachers.registry.local import Registry
from tests.helpers.cli_runner import protege
from tests.helpers.lora_adapters import write_adapter
from tests.helpers.messages import refuses, says
from tests.helpers.model_copies import noisy_copy
from tests.helpers.paths import STUDENT
from tests.helpers.tiny_model import config_dict, write_config, write_model

PROBLEMS = [Problem(f"p{i}", ({"role": "user", "content": f"question {i}"},), "right") for i in range(12)]


class Answers:
    """A generator whose models, by their folder's name, answer this share of the problems rightly."""

    def __init__(self, shares, **arguments):
        self.shares, self.asked = shares, []

    def __call__(self, **arguments):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        pass

    def generate(self, model_path, problems, mode, n, temperature, seed, max_tokens, on_progress):
        self.asked.append((model_path.name, mode))
        right = round(self.shares.get(model_path.name, self.shares[None]) * len(problems))
        on_progress(len(problems) * n)
        return {
            problem.id: [Completion("right" if place < right else "wrong", 3, True)] * n
            for place, problem in enumerate(problems)
        }


class Setting:
    """A config whose math domain has a benchmark, the expert `./math_expert`, and an empty registry."""

    def __init__(self, folder: Path, student: Path | None = None):
        self.folder, self.registry = folder, Registry(folder / "home")
        self.config = config_dict(folder)
        if student is not None:
            self.config["student"] = str(student)
        self.config["domains"]["math"]["benchmarks"] = [
            {"kind": "math", "name": "bench", "path": "./b.jsonl"}
        ]
        self.config["evaluation"] = {"samples_per_problem": 2}
        self.config["registry"] = "./home"
        self.verdict: Verdict | None = None
        self.expert = folder / "math_expert"

    def open_benchmark(self, config):
        return BenchmarkTask(config.name, "made up", PROBLEMS, self.grade, "digest")

    def grade(self, answers):
        verdicts = {True: Verdict.PASS, False: Verdict.FAIL}
        return [Grade(self.verdict or verdicts[c.text == p.reference], "") for p, c in answers]

    def path(self) -> Path:
        return write_config(self.folder, self.config)

    def order(self, source=None, **changes) -> ImportOrder:
        config = load_config(self.path()).config
        return ImportOrder(str(source or self.expert), changes.pop("domain", "math"), config, **changes)

    def take(self, source=None, right=0.75, base_right=0.25, **changes):
        self.generator = Answers({"student": base_right, STUDENT.name: base_right, None: right})
        return import_expert(self.registry, self.order(source, **changes), make_generator=self.generator)

    def refusal(self, *arguments, **changes) -> str:
        with pytest.raises(ConfigError) as caught:
            self.take(*arguments, **changes)
        assert self.registry.list() == []
        return "\n".join(caught.value.problems)


@pytest.fixture
def setting(tmp_path, monkeypatch):
    setting = Setting(tmp_path)
    monkeypatch.setattr(jobs, "open_benchmark", setting.open_benchmark)
    return setting


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_without_an_evaluation_too(setting, value):
    write_model(setting.expert, value=value)
    says(setting.refusal(evaluate=False), setting.expert, "model.embed_tokens.weight", "not finite")


def test_a_full_model_is_stored_with_all_that_is_known(setting):
    record = setting.take()
    assert setting.registry.find(record.id) == record == setting.registry.verify(record.id)
    assert (record.kind, record.domain, record.source) == ("imported", "math", str(setting.expert))
    student, own = fingerprint(setting.folder / "student"), fingerprint(setting.expert)
    assert record.base == {"path": student.path, "weights_sha256": student.weights_sha256}
    assert record.weights_sha256 == own.weights_sha256 == fingerprint(record.model_path).weights_sha256
    assert record.distance["relative_l2"] == pytest.approx(0.2, rel=1e-5)  # 0.6 against 0.5 everywhere
    assert record.fingerprint["tokenizer_sha256"] == student.tokenizer_sha256
    assert record.declaration["reward"] == "exact" and record.parent == student.weights_sha256
    assert {"model/config.json", "model/model.safetensors"} <= record.files.keys()
    assert record.size_bytes == sum((Path(record.path) / name).stat().st_size for name in record.files)
    greedy, sampled = record.evaluation["bench@greedy"], record.evaluation["bench"]
    assert (greedy["accuracy"], greedy["base"]["accuracy"], greedy["n"]) == (0.75, 0.25, 12)
    assert (sampled["accuracy"], sampled["answers"]) == (0.75, 24)
    assert not list((setting.registry.root / "building").glob("*/"))


def test_files_are_linked_not_doubled(setting):
    record = setting.take()
    ours, theirs = Path(record.model_path) / "model.safetensors", setting.expert / "model.safetensors"
    assert os.path.samefile(ours, theirs)


def test_what_is_no_part_of_the_model_stays_behind(setting):
    (setting.expert / "checkpoint-5").mkdir()
    (setting.expert / "checkpoint-5" / "x").touch()
    for name in ("pytorch_model.bin", "optimizer.pt", ".hidden", "notes.txt"):
        (setting.expert / name).write_text(name)
    names = setting.take(evaluate=False).files.keys()
    assert "model/notes.txt" in names
    assert not any(part in name for name in names for part in ("checkpoint", ".bin", ".pt", ".hidden"))


def test_the_links_of_a_hub_cache_become_files(setting, tmp_path):
    blobs = tmp_path / "blobs"
    setting.expert.rename(blobs)
    setting.expert.mkdir()
    for file in blobs.iterdir():
        (setting.expert / file.name).symlink_to(file)
    record = setting.take(evaluate=False)
    assert not any(file.is_symlink() for file in Path(record.model_path).iterdir())
    shutil.rmtree(setting.expert)
    assert setting.registry.verify(record.id) == record


@pytest.mark.parametrize(
    "change, facts",
    [
        ({"extra_tokens": ("<x>",)}, ("tokenizer", "student's")),
        ({"eos": "<end>"}, ("EOS", "student's")),
        ({"template": "{{ messages }}"}, ("chat template", "student's")),
        ({"vocab_size": 120}, ("vocab_size 120", "config.json")),
        ({"context": 32}, ("context of 32 tokens",)),
    ],
)
def test_an_expert_that_does_not_fit_is_refused(setting, change, facts):
    write_model(setting.expert, value=0.6, **change)
    says(setting.refusal(), *facts)
    assert setting.generator.asked == []  # before anything is generated


def test_an_expert_that_is_its_base_is_refused(setting):
    same = shutil.copytree(setting.folder / "student", setting.folder / "same")
    says(setting.refusal(same), same, "weights", "base")
    says(setting.refusal(base=str(setting.expert)), setting.expert, "weights", "base")


def test_a_base_of_its_own_is_what_it_is_measured_against(setting):
    own = write_model(setting.folder / "student2", value=0.3)
    record = setting.take(base=str(own))
    assert record.base["path"] == str(own)
    assert record.distance["relative_l2"] == pytest.approx(1.0, rel=1e-5)  # 0.6 against 0.3
    assert {name for name, _ in setting.generator.asked} == {"student2", "math_expert"}


def test_an_expert_of_other_shapes_has_no_distance(setting):
    write_model(setting.expert, value=0.6, hidden=8)
    assert setting.take().distance == {"not_measured": "other shapes"}


def test_an_expert_below_its_base_is_refused_unless_admitted(setting):
    said = setting.refusal(right=0.0, base_right=1.0)
    says(said, "worse", "bench@greedy", "0.0%", "base's 100.0%")
    record = setting.take(right=0.0, base_right=1.0, admit_worse=True)
    assert record.evaluation["bench"]["difference"] == -1.0
    assert setting.registry.show(record.id) == record


def test_an_expert_within_noise_of_its_base_is_taken(setting):
    assert setting.take(right=0.5, base_right=7 / 12).evaluation["bench"]["accuracy"] == 0.5


def test_answers_that_nobody_could_judge_are_not_an_accuracy(setting):
    setting.verdict = Verdict.UNSCORED
    says(setting.refusal(), "no answer", "judged", "bench, bench@greedy")
    assert setting.take(evaluate=False).evaluation is None


def test_without_evaluation_it_is_not_measured_and_can_be_later(setting):
    first = setting.take(evaluate=False)
    assert first.evaluation is None and setting.generator.asked == []
    second = setting.take()
    assert second.id == first.id and second.evaluation["bench"]["accuracy"] == 0.75
    assert setting.registry.find(first.id) == second
    setting.take()
    assert setting.generator.asked == []  # it was there with its scores


def test_a_domain_without_benchmarks_needs_to_be_told(setting):
    says(setting.refusal(domain="code"), "domains.code", "no benchmarks")
    assert setting.take(domain="code", evaluate=False).domain == "code"


def test_a_domain_that_is_not_there_is_refused(setting):
    says(setting.refusal(domain="maths"), "--domain maths", "domains are math, code")


def test_weights_that_change_meanwhile_are_refused(setting, monkeypatch):
    from teachers.registry import expert_files

    def slow_copy(source, target):
        write_model(setting.expert, value=0.9)
        shutil.copytree(source, target)

    monkeypatch.setattr(expert_files, "copy_model", slow_copy)
    says(setting.refusal(), "weights", "changed", "copied")
    assert not list((setting.registry.root / "experts").glob("*"))


def test_the_parent_is_the_registrys_expert(setting):
    parent = setting.take(evaluate=False)
    child = write_model(setting.folder / "child", value=0.9)
    assert setting.take(child, base=parent.model_path, evaluate=False).parent == parent.id


def test_an_adapter_is_scored_as_the_model_it_makes(tmp_path, monkeypatch):
    setting = Setting(tmp_path, STUDENT)
    monkeypatch.setattr(jobs, "open_benchmark", setting.open_benchmark)
    adapter = write_adapter(tmp_path / "adapter", seed=1)
    record = setting.take(adapter)
    assert sorted(record.files) == ["model/adapter_config.json", "model/adapter_model.safetensors"]
    assert record.distance["changed_share"] > 0.5 and record.evaluation["bench"]["accuracy"] == 0.75
    assert record.fingerprint["parameters"] < fingerprint(STUDENT).parameters
    with refuses("--base", "adapter", "student"):
        setting.take(adapter, base=str(STUDENT))


def test_an_adapter_of_zeros_is_refused(tmp_path):
    setting = Setting(tmp_path, STUDENT)
    adapter = write_adapter(tmp_path / "adapter", scale=0.0)
    says(setting.refusal(adapter), adapter, "weights", "base")


# ---------------------------------------------------------------------------------------- commands


def test_the_command_prints_a_table(setting):
    arguments = ("--domain", "math", "--config", setting.path(), "--no-evaluation")
    result = protege("experts", "import", setting.expert, *arguments)
    (record,) = setting.registry.list()
    assert result.code == 0 and record.id in result.out
    says(result.out, "relative L2 0.2", "100% of 11 tensors", "not measured", record.path)


def test_the_commands_registry_goes_before_the_configs(setting, tmp_path):
    arguments = ("--domain", "math", "--config", setting.path(), "--no-evaluation")
    assert (
        protege("experts", "import", setting.expert, *arguments, "--registry", tmp_path / "other").code == 0
    )
    assert len(Registry(tmp_path / "other").list()) == 1 and setting.registry.list() == []


def test_the_command_refuses_with_one_message(setting):
    same = setting.folder / "student"
    result = protege("experts", "import", same, "--domain", "math", "--config", setting.path())
    (message,) = result.errors
    assert result.code == 2
    says(message, "error", f"expert {same}", "weights", "base")
    both = ("--no-evaluation", "--admit-worse")
    result = protege("experts", "import", same, "--domain", "math", "--config", setting.path(), *both)
    assert result.code == 2
    says(result.err, "--admit-worse", "evaluation", "one of the two")


def test_the_imported_expert_is_listed_with_its_accuracy(setting):
    record = setting.take()
    out = protege("experts", "list", "--registry", setting.registry.root).out
    assert "bench 75.0% (n 12)" in out and "imported" in out
    shown = protege("experts", "show", record.id, "--registry", setting.registry.root).out
    assert "+50.0 points" in shown and str(setting.expert) in shown
    (listed,) = json.loads(protege("experts", "list", "--json", "--registry", setting.registry.root).out)
    assert listed["evaluation"]["bench"]["n"] == 12
    exported = setting.folder / "out"
    assert (
        protege("experts", "export", record.id[:6], exported, "--registry", setting.registry.root).code == 0
    )
    text = (exported / "README.md").read_text()
    assert "bench: 75.0% (95% interval" in text and "n = 12" in text and str(setting.expert) in text


def test_noise_is_an_expert_too(tmp_path):
    setting = Setting(tmp_path, STUDENT)
    record = setting.take(noisy_copy(tmp_path / "noisy", seed=3), evaluate=False)
    assert 0 < record.distance["relative_l2"] < 1 and record.distance["tensors"] > 5
