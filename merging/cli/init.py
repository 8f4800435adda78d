"""`protege init` and `protege schema`: a config to start from, and its schema for editors."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from merging.init.domains import DomainWish, Wish

Pairs = list[str] | None


def register(app: typer.Typer) -> None:
    """Adds the commands to `protege`."""
    app.command()(init)
    app.command()(schema)


def _pair(flag: str, text: str) -> Any:
    return typer.Option(flag, metavar="DOMAIN=...", help=text)


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the new config, merge.yaml.")],
    student: Annotated[str | None, typer.Option(help="Base student: model folder or hub name.")] = None,
    domain: Annotated[
        Pairs, typer.Option(metavar="NAME", help="A domain, in order [default: those of --prompts].")
    ] = None,
    prompts: Annotated[Pairs, _pair("--prompts", "Its prompts: a .jsonl, .csv or .parquet file.")] = None,
    columns: Annotated[
        Pairs, _pair("--columns", "PROMPT[,ANSWER]: columns of its prompts, instead of guesses.")
    ] = None,
    reward: Annotated[
        Pairs, _pair("--reward", "How its answers are judged, instead of a guess: a name or a block.")
    ] = None,
    expert: Annotated[
        Pairs, _pair("--expert", "Its expert: rl (built here), model:PATH, adapter:PATH, or a block.")
    ] = None,
    benchmark: Annotated[
        Pairs, _pair("--benchmark", "A file of held-out problems, a published name, or a block; repeatable.")
    ] = None,
    shared_prompts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Prompts of several domains in one file.")
    ] = None,
    shared_columns: Annotated[
        str | None, typer.Option(metavar="PROMPT[,ANSWER]", help="Columns of --shared-prompts.")
    ] = None,
    route: Annotated[
        str | None, typer.Option(metavar="KIND", help="Router of --shared-prompts: a kind or a block.")
    ] = None,
    label_field: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column with the domain's name [default: found].")
    ] = None,
    hold_out: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Hold out this share where a domain has no --benchmark."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="cpu|cuda", help="[default: cuda where there are GPUs]")
    ] = None,
    gpus: Annotated[int | None, typer.Option(min=1, help="Devices [default: the GPUs here, or 1].")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run [default: the folder's].")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing.")] = False,
) -> None:
    """Write a commented config for your own domains; without flags, ask for what it needs.

    A block is what the config would hold, '{kind: rl, steps: 20}'; its paths are read from DIR.
    """
    from merging.init.config import CONFIG, make, write
    from merging.init.domains import Wish

    asks = on_terminal() and not yes
    pairs = {
        "prompts": prompts,
        "columns": columns,
        "reward": reward,
        "expert": expert,
        "benchmark": benchmark,
    }
    if asks and student is None and not domain and not any(pairs.values()):
        wish = _asked(folder)
    else:
        wish = Wish(folder, _required(student), _domains(domain or [], pairs))
    chosen_device, chosen_gpus = _hardware(device, gpus)
    wish = _with(
        wish,
        shared=shared_prompts,
        shared_columns=shared_columns,
        route=route,
        label_field=label_field,
        hold_out=hold_out,
        device=chosen_device,
        gpus=chosen_gpus,
        name=name,
    )
    made = make(wish)
    for line in made.said:
        typer.echo(line)
    if asks and not typer.confirm(f"write {', '.join(path.name for path in made.files)} to {folder}?", True):
        raise typer.Exit(0)
    write(made)
    typer.echo(f"wrote {folder / CONFIG}; next:")
    for command in ("check", "route", "merge"):
        typer.echo(f"  protege {command} {folder / CONFIG}")


def schema(
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write it there instead of printing it.")
    ] = None,
) -> None:
    """Print the JSON Schema of a config, for editors."""
    from common.errors import ConfigError
    from common.files import expanded, write_text
    from configs.schema_doc import json_schema

    if out is None:
        typer.echo(json_schema(), nl=False)
        return
    try:
        write_text(expanded(out), json_schema())
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written: {error.strerror}") from None
    typer.echo(f"wrote {out}")


# -------------------------------------------------------------------------------------------- flags


def _required(student: str | None) -> str:
    from common.errors import ConfigError

    if not student:
        raise ConfigError("--student is missing: the base student's model folder or hub name")
    return student


def _with(wish: Wish, **chosen: object) -> Wish:
    """The wish with the flags that were given."""
    from dataclasses import replace

    return replace(wish, **{name: value for name, value in chosen.items() if value is not None})


def _hardware(device: str | None, gpus: int | None) -> tuple[str, int]:
    from typing import get_args

    from common.errors import ConfigError
    from common.words import did_you_mean
    from configs.schema import Hardware
    from merging.checks.machine import visible_gpus

    devices = get_args(Hardware.model_fields["device"].annotation)
    if device is not None and device not in devices:
        hint = did_you_mean(device, devices)
        raise ConfigError(f"--device {device}: unknown device; {hint}valid: {', '.join(devices)}")
    here = visible_gpus()
    device = device or ("cuda" if here else "cpu")
    return device, gpus or (max(here, 1) if device == "cuda" else 1)


def _domains(named: Sequence[str], pairs: dict[str, Pairs]) -> tuple[DomainWish, ...]:
    """The domains of the flags, in the order of --domain, else of --prompts."""
    from common.errors import ConfigError
    from merging.init.domains import DomainWish

    twice = next((name for name in named if named.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"--domain {twice}: is given twice")
    split = {flag: [_split(flag, text) for text in texts or ()] for flag, texts in pairs.items()}
    names = list(named) or list(dict.fromkeys(name for name, _ in split["prompts"]))
    given: dict[str, dict[str, list[str]]] = {name: {} for name in names}
    for flag, values in split.items():
        for name, value in values:
            _add(given, name, flag, value)
    return tuple(
        DomainWish(
            name,
            prompts=Path(flags["prompts"][0]) if "prompts" in flags else None,
            benchmarks=tuple(flags.get("benchmark", ())),
            **{flag: flags[flag][0] for flag in ("columns", "reward", "expert") if flag in flags},
        )
        for name, flags in given.items()
    )


def _split(flag: str, text: str) -> tuple[str, str]:
    from common.errors import ConfigError

    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise ConfigError(f"--{flag} {text}: expected DOMAIN=VALUE, such as --{flag} math={EXAMPLES[flag]}")
    return name, value


EXAMPLES = {
    "prompts": "math.jsonl",
    "columns": "question,answer",
    "reward": "math",
    "expert": "rl",
    "benchmark": "aime24",
}


def _add(given: dict[str, dict[str, list[str]]], name: str, flag: str, value: str) -> None:
    from common.errors import ConfigError
    from common.words import did_you_mean

    if name not in given:
        hint = did_you_mean(name, given)
        known = f"domains: {', '.join(given)}" if given else f"--domain {name} declares it"
        raise ConfigError(f"--{flag} {name}={value}: no domain {name!r}; {hint}{known}")
    values = given[name].setdefault(flag, [])
    if values and flag != "benchmark":
        raise ConfigError(f"--{flag} {name}: is given twice, {values[0]!r} and {value!r}")
    values.append(value)


# ---------------------------------------------------------------------------------------- questions


def on_terminal() -> bool:
    """Whether a person can be asked."""
    return sys.stdin.isatty()


def _asked(folder: Path) -> Wish:
    """What a few questions tell; an empty answer leaves the guess."""
    from merging.init.blocks import ROUTERS
    from merging.init.domains import Wish

    student = typer.prompt("base student (model folder or hub name)")
    shared = _ask("file with prompts of several domains (empty: none)")
    names = typer.prompt("domains, separated by commas").split(",")
    domains = tuple(_asked_domain(name.strip(), bool(shared)) for name in names if name.strip())
    routed = shared and len(ROUTERS) > 1
    route = (
        typer.prompt(f"router of prompts without a label ({', '.join(ROUTERS)})", "label") if routed else ""
    )
    splits = any(domain.prompts is not None and not domain.benchmarks for domain in domains)
    share = typer.prompt("share of the prompts to hold out (0: none)", 0.1) if splits else 0.0
    return Wish(
        folder,
        student,
        domains,
        shared=Path(shared) if shared else None,
        route=route if route not in ("", "label") else None,
        hold_out=share or None,
    )


def _asked_domain(name: str, has_shared: bool) -> DomainWish:
    from merging.init.blocks import REWARDS, STANDARD, expert_forms
    from merging.init.domains import DomainWish

    file = (
        _ask(f"{name}: file of prompts (empty: they are in the shared file)")
        if has_shared
        else typer.prompt(f"{name}: file of prompts")
    )
    expert = typer.prompt(f"{name}: expert ({', '.join(expert_forms())})", "rl")
    reward = _ask(f"{name}: reward ({', '.join(REWARDS)}; empty: by the answers)")
    benchmark = _ask(f"{name}: benchmark (a file, or {', '.join(STANDARD)}; empty: hold problems out)")
    return DomainWish(
        name,
        prompts=Path(file) if file else None,
        reward=reward or None,
        expert=expert,
        benchmarks=(benchmark,) if benchmark else (),
    )


def _ask(question: str) -> str:
    """An answer that may be empty."""
    return typer.prompt(question, "", show_default=False)
