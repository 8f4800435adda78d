"""`protege experts`: the registry's commands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from merging.cli.arguments import ConfigPath, Overrides, load

if TYPE_CHECKING:
    from configs.load import LoadedConfig
    from teachers.registry.local import ExpertRecord, Registry

experts = typer.Typer(help="The registry of experts.", no_args_is_help=True, rich_markup_mode=None)

RegistryPlace = Annotated[
    str | None,
    typer.Option(
        "--registry",
        metavar="DIR",
        help="Folder or URL of the experts [default: $PROTEGE_HOME or ~/.protege].",
    ),
]
ExpertId = Annotated[str, typer.Argument(metavar="ID", help="Expert's id, or a beginning that only it has.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _registry(place: str | None) -> Registry:
    from teachers.registry.opening import open_registry

    return open_registry(place)


def _load(config: Path, overrides: list[str] | None, place: str | None) -> LoadedConfig:
    """The config, with the registry of the command line in place of its own."""
    import dataclasses

    loaded = load(config, overrides)
    if place is None:
        return loaded
    from configs.places import registry_place

    found = registry_place(place)
    found = found.absolute() if isinstance(found, Path) else found
    chosen = loaded.config.model_copy(update={"registry": found})
    return dataclasses.replace(loaded, config=chosen)


# ------------------------------------------------------------------------------------------- making


@experts.command(name="build")
def build_experts(config: ConfigPath, overrides: Overrides = None, registry: RegistryPlace = None) -> None:
    """Build the experts of a config that the registry does not hold yet."""
    loaded = _load(config, overrides, registry)
    from merging.run import build_experts as build

    for record in build(loaded):
        typer.echo(_line(record))


def _line(record: ExpertRecord) -> str:
    reward = "reward not measured" if record.final_reward is None else f"reward {record.final_reward:.3f}"
    time = "time not measured" if record.wall_seconds is None else f"{record.wall_seconds:.0f} s"
    return f"{record.id}  {record.domain}  {reward}  {time}  {record.created}"


@experts.command(name="import")
def import_expert(
    expert: Annotated[
        str,
        typer.Argument(
            metavar="NAME_OR_FOLDER", help="Full model or adapter: a folder, or a cached hub name."
        ),
    ],
    domain: Annotated[str, typer.Option("--domain", help="Domain of the config that it teaches.")],
    config: Annotated[Path, typer.Option("--config", metavar="CONFIG", help="YAML file of the merge.")],
    overrides: Overrides = None,
    registry: RegistryPlace = None,
    base: Annotated[
        str | None, typer.Option("--base", help="What it was trained from, if not from the config's student.")
    ] = None,
    no_evaluation: Annotated[
        bool, typer.Option("--no-evaluation", help="Leave its accuracy not measured.")
    ] = False,
    admit_worse: Annotated[
        bool, typer.Option("--admit-worse", help="Also take an expert that is below its base.")
    ] = False,
) -> None:
    """Check an expert of yours, score it and its base, and take it into the registry."""
    from common.errors import ConfigError

    if no_evaluation and admit_worse:
        raise ConfigError("--admit-worse is read with the evaluation only; leave out one of the two options")
    loaded = _load(config, overrides, registry)
    from common.progress import say
    from teachers.imports import ImportOrder, import_expert
    from teachers.registry.opening import open_registry

    shown: set[tuple[str, str]] = set()

    def on_progress(model: str, benchmark: str, done: int, total: int) -> None:
        if done >= total and (model, benchmark) not in shown:
            shown.add((model, benchmark))
            say(f"evaluation: {model} on {benchmark}: {total} answers")

    order = ImportOrder(expert, domain, loaded.config, base, not no_evaluation, admit_worse)
    record = import_expert(open_registry(loaded.config.registry), order, on_progress)
    from merging.cli.expert_tables import print_imported

    print_imported(record)


# ------------------------------------------------------------------------------------------ reading


@experts.command(name="list")
def list_experts(registry: RegistryPlace = None, as_json: AsJson = False) -> None:
    """List the experts."""
    from merging.cli.expert_tables import print_list
    from teachers.registry.local import record_json

    found = _registry(registry)
    records, damaged = found.records()
    if as_json:
        told = [{"id": id, "damaged": why} for id, why in damaged.items()]
        _echo_json([*map(record_json, records), *told])
        return
    if records:
        print_list(records)
    elif not damaged:
        typer.echo(f"no experts in {found.place}")
    for id, why in damaged.items():
        typer.echo(f"damaged: {id}: {why}")
    for id in found.stopped():
        typer.echo(f"a build is running or was stopped: {id}")


@experts.command(name="show")
def show_expert(expert: ExpertId, registry: RegistryPlace = None, as_json: AsJson = False) -> None:
    """Show what is known of an expert."""
    import dataclasses

    from merging.cli.expert_tables import print_record

    record = _registry(registry).show(expert)
    if as_json:
        _echo_json(dataclasses.asdict(record))
    else:
        print_record(record)


@experts.command(name="verify")
def verify_expert(
    expert: Annotated[str | None, typer.Argument(metavar="[ID]", help="Expert's id.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All experts of the registry.")] = False,
    registry: RegistryPlace = None,
) -> None:
    """Read all files of an expert, or of all, and compare them with what was recorded."""
    from common.errors import ConfigError

    if every == (expert is not None):
        raise ConfigError("experts verify: give an ID, or --all")
    found = _registry(registry)
    problems: list[str] = []
    for id in found.ids() if expert is None else [expert]:
        try:
            record = found.verify(id)
        except ConfigError as error:
            problems += error.problems
        else:
            note = (
                ""
                if record.files is not None
                else " (weights only: its record has no digests of other files)"
            )
            typer.echo(f"{record.id}: intact{note}")
    if problems:
        raise ConfigError("\n".join(problems))
    if every and not found.ids():
        typer.echo(f"no experts in {found.place}")


def _echo_json(value: object) -> None:
    import json

    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


# ----------------------------------------------------------------------------------- taking out


@experts.command(name="export")
def export_expert(
    expert: ExpertId,
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="New or empty folder.")],
    registry: RegistryPlace = None,
) -> None:
    """Copy an expert with a model card to a folder that transformers and vLLM (an adapter: peft) load."""
    found = _registry(registry)
    from teachers.registry.expert_card import export_expert as export

    record = found.show(expert)
    export(found.check(found.fetch(record)), target)
    typer.echo(f"{record.id}: exported to {target}")


@experts.command(name="rm")
def remove_expert(
    expert: ExpertId,
    registry: RegistryPlace = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    building: Annotated[
        bool, typer.Option("--building", help="Remove what a stopped build left, instead of an expert.")
    ] = False,
    used: Annotated[bool, typer.Option("--used", help="Also one that an existing run folder reads.")] = False,
) -> None:
    """Delete an expert from the registry."""
    from common.errors import ConfigError

    found = _registry(registry)
    if building:
        _confirm(f"delete the stopped build {expert} in {found.root}", yes)
        typer.echo(f"{found.remove_building(expert)}: build removed")
        return
    id = found.resolve(expert)  # also one whose record is damaged
    if (runs := found.uses(id)) and not used:
        raise ConfigError(
            f"expert {id} is read by {', '.join(map(str, runs))}, which could not be evaluated again "
            "without it; delete that folder first, or give --used"
        )
    _confirm(f"delete expert {id} from {found.place}", yes)
    found.remove(id)
    typer.echo(f"{id}: removed")


def _confirm(what: str, yes: bool) -> None:
    from common.errors import ConfigError

    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError(f"{what}? without a terminal to ask on, give --yes")
    if not typer.confirm(f"{what}?"):
        raise ConfigError("nothing was deleted")
