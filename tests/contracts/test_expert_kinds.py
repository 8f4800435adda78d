"""What every entry of merging.expert_kinds.kinds.EXPERT_KINDS must do."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from common.errors import ConfigError
from configs.blocks.experts import Expert
from configs.load import load_config
from configs.reading.explain import kind_of
from merging import run as run_module
from merging.checks.preflight import preflight
from merging.expert_kinds.kinds import EXPERT_KINDS
from merging.state.cluster import NoCluster
from merging.state.run_folder import RunFolder
from teachers.imports import ImportOrder, import_expert
from teachers.models.adapters import is_adapter
from teachers.models.fingerprint import fingerprint
from teachers.registry.local import Registry
from tests.helpers.fake_server import lasting_server
from tests.helpers.lora_adapters import write_adapter
from tests.helpers.model_copies import STUDENT, noisy_copy
from tests.helpers.opened_runs import expert_beside_model
from tests.helpers.tiny_model import write_config

RECIPE = {"kind": "rl", "steps": 3, "prompts_per_step": 4, "samples_per_prompt": 2}


def registered(folder: Path) -> dict[str, Any]:
    """An adapter that was imported."""
    config = load_config(write_config(folder, config_of(folder, RECIPE))).config
    given = str(write_adapter(folder / "given", seed=1))
    record = import_expert(Registry(folder / "home"), ImportOrder(given, "math", config, evaluate=False))
    return {"kind": "registered", "id": record.id}


def served() -> dict[str, Any]:
    """A model of a server that answers."""
    return {"kind": "served", "url": lasting_server(STUDENT).url, "model": "teacher"}


BLOCKS = {
    "rl": lambda folder: RECIPE,
    "rl with a base": lambda folder: RECIPE | {"base": str(noisy_copy(folder / "base", seed=3))},
    "rl, an adapter": lambda folder: RECIPE | {"lora_rank": 4},
    "model": lambda folder: {"kind": "model", "path": str(noisy_copy(folder / "given", seed=1))},
    "adapter": lambda folder: {"kind": "adapter", "path": str(write_adapter(folder / "given", seed=1))},
    "registered": registered,
    "served": lambda folder: served() | {"path": str(noisy_copy(folder / "given", seed=1))},
    "served, without a folder": lambda folder: served(),
}
"""By kind, and what it may be told: a block that a run can be started with; its model is in the folder."""

BROKEN = {
    "rl": {**RECIPE, "base": "./absent"},
    "model": {"kind": "model", "path": "./absent"},
    "adapter": {"kind": "adapter", "path": "./absent"},
    "registered": {"kind": "registered", "id": "absent"},
    "served": {"kind": "served", "url": "http://127.0.0.1:9/v1", "model": "absent"},
}
"""By kind: a block whose model is not there."""


def config_of(folder: Path, expert: dict[str, Any]) -> dict[str, Any]:
    """Two domains: math has this expert, code a full model."""
    return expert_beside_model(folder, expert) | {"baselines": []}


def test_every_kind_of_the_config_has_its_entry():
    union, _ = get_args(Expert)
    assert list(EXPERT_KINDS) == [kind_of(block) for block in get_args(union)]
    assert EXPERT_KINDS.keys() == BROKEN.keys() == {name.partition(" ")[0].strip(",") for name in BLOCKS}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_model_that_is_not_there_is_refused_once_at_its_place(kind, tmp_path):
    loaded = load_config(write_config(tmp_path, config_of(tmp_path, BROKEN[kind])))
    with pytest.raises(ConfigError) as caught:
        preflight(loaded, tmp_path / "run")
    (problem,) = caught.value.problems
    assert problem.startswith("domains.math.expert") and "absent" in problem


@pytest.fixture(params=BLOCKS)
def checked(request, tmp_path):
    """(config, what the checks found, the expert of math) for each block."""
    loaded = load_config(write_config(tmp_path, config_of(tmp_path, BLOCKS[request.param](tmp_path))))
    found = preflight(loaded, tmp_path / "run")
    return SimpleNamespace(
        loaded=loaded, found=found, expert=found.experts(found.config)["math"], folder=tmp_path
    )


class TestExpert:
    def test_what_it_names_is_checked_and_given_by_its_folder(self, checked):
        named, models = checked.expert.named_models(), checked.found.fingerprints
        assert named.keys() <= models.keys()
        assert all(model.place.startswith(checked.expert.place) for model in named.values())
        folders = checked.found.with_folders(checked.loaded.config).domains["math"].expert
        paths = [getattr(folders, name, None) for name in ("path", "base")]
        assert all(Path(path).is_absolute() and Path(path).is_dir() for path in paths if path is not None)

    def test_it_is_one_of_the_kinds_that_say_all_and_resolving_again_changes_nothing(self, checked):
        again, record = checked.expert.resolved(Registry(checked.folder / "home"))
        assert again == checked.expert.block and record is None

    def test_its_sizes(self, checked):
        models, student = checked.found.fingerprints, fingerprint(STUDENT).parameters
        place, shaped = checked.expert.shaped_like(models)
        assert place.startswith(checked.expert.place) and shaped.shapes_sha256 is not None
        adapter = checked.expert.adapter_parameters(models)
        assert adapter is None or 0 < adapter < student
        assert checked.expert.exported_parameters(models) in (0, student)

    def test_only_what_is_built_reads_prompts_and_has_steps_to_do(self, checked):
        expert, registry = checked.expert, Registry(checked.folder / "home")
        stage = expert.planned(registry)
        assert stage.name == "expert math" and stage.scorer_passes == 0
        assert [item.domain for item in expert.prompts] == ["math"] * 6
        if expert.is_built:
            assert all(map(expert.reads, expert.prompts)) and expert.find(registry) is None
            assert (stage.state, stage.steps, stage.rollouts) == ("to do", 3, 24)
            assert expert.rollouts_per_step == 8
        else:
            assert not any(map(expert.reads, expert.prompts)) and expert.rollouts_per_step is None
            assert (stage.steps, stage.rollouts) == (0, 0)
            assert stage.state == ("given" if expert.find(registry) is None else "found in the registry")

    def test_it_becomes_a_teacher_with_a_full_model_or_is_still_to_be_built(self, checked):
        folder = RunFolder.open(checked.folder / "run", checked.loaded, checked.found)
        if checked.expert.is_built:
            with pytest.raises(ConfigError, match="`protege merge` builds it"):
                run_module.experts(folder, checked.found, NoCluster())
            return
        teacher, _ = run_module.experts(folder, checked.found, NoCluster())
        if not checked.expert.has_weights:
            assert teacher.model_path is None and teacher.served is not None
            return
        assert teacher.domain == "math" and not is_adapter(teacher.model_path)
        assert fingerprint(teacher.model_path).shapes_sha256 == fingerprint(STUDENT).shapes_sha256
        assert teacher.weights_sha256 == checked.found.fingerprints["math"].weights_sha256
        assert (teacher.record_id is None) == (checked.expert.record is None)
