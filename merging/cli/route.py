"""`protege route`: how prompts find their domain, before anything is trained."""

from __future__ import annotations

from typing import Annotated

import typer

from merging.cli.arguments import ConfigPath, Overrides, RunDir, load, run_folder


def route(
    config: ConfigPath,
    overrides: Overrides = None,
    run_dir: RunDir = None,
    examples: Annotated[int, typer.Option(min=0, help="Examples shown of each domain.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print counts and measurements as JSON.")] = False,
) -> None:
    """Show how prompts are routed and mixed: counts, shares, examples, how good the router is."""
    import json

    from merging.cli.route_text import Routing

    loaded = load(config, overrides)
    found = Routing.of(loaded.config, run_folder(loaded, run_dir))
    if as_json:
        typer.echo(json.dumps(found.to_json(examples), ensure_ascii=False, indent=2))
        return
    for line in found.lines(examples):
        typer.echo(line)
