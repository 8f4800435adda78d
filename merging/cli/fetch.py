"""`protege fetch`: downloads what a config names, so that every other command works without a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from merging.cli.arguments import ConfigPath, Overrides, load

if TYPE_CHECKING:
    from merging.fetching import Fetched


def fetch(
    config: ConfigPath,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List everything, download nothing.")] = False,
) -> None:
    """Download the models, data sets and benchmarks that a config names; what is here already stays."""
    from common.errors import RunFailed
    from common.words import counted, in_its_unit
    from merging.fetching import fetch as fetch_each
    from merging.fetching import named_things

    things = named_things(load(config, overrides).config)
    failed, coming = 0, 0
    for fetched in fetch_each(things, downloads=not dry_run):
        typer.echo(_line(fetched))
        failed += fetched.state == "failed"
        coming += (fetched.size or 0) if fetched.state == "to download" else 0
    if coming:
        typer.echo(f"to download: {in_its_unit(coming)}")
    if failed:
        raise RunFailed(
            f"{failed} of {counted(len(things), 'thing')} could not be had, as listed above; the same "
            "command tries again and continues what was begun"
        )


def _line(fetched: Fetched) -> str:
    """One thing: its state, what it is, where the config names it, and its size, time or problem."""
    from common.words import duration, in_its_unit

    size = None if fetched.size is None else in_its_unit(fetched.size)
    time = None if fetched.seconds is None else duration(fetched.seconds)
    facts = ", ".join(part for part in (size, time) if part)
    end = fetched.problem or facts
    places = ", ".join(fetched.named.places)
    return f"{fetched.state:12}  {fetched.named.title} ({places})" + (f": {end}" if end else "")
