"""The command `protege`. Heavy imports stand inside the commands, so that `--help` answers at once."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from common.disk import is_full
from common.interrupts import Interrupts
from common.words import printable
from merging.cli import init as cli_init
from merging.cli.arguments import ConfigPath, Overrides, RunDir, load, run_folder
from merging.cli.experts import experts
from merging.cli.fetch import fetch
from merging.cli.route import route

REFUSED, FAILED, INTERRUPTED, TERMINATED = 2, 1, 130, 143
"""Exit codes: refused before anything started, the run failed, interrupted by Ctrl-C or by SIGTERM and
resumable."""

WITH_PROCESSES = ("check", "doctor", "eval", "experts build", "experts import", "merge", "probe", "sweep")
"""Commands that start processes, and have a folder of their own for temporary files."""


STARTING = ("eval", "merge", "probe", "sweep")
"""Commands whose errors after the checks are those of a run that has begun."""


class ProtegeGroup(TyperGroup):
    """Turns the errors that a user can act on into a message and an exit code, without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _say("interrupted; the same command continues the run where it stopped")
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            code, problems = _told(error, ctx.invoked_subcommand)
            if code is None:
                raise
            for problem in problems:
                _say(f"error: {printable(problem)}")
            raise typer.Exit(code) from None


def _told(error: Exception, command: str | None) -> tuple[int | None, Sequence[str]]:
    """Exit code and messages: 2 for refused input, 1 for a failed run or a full disk, None for our bug."""
    from common.errors import ConfigError, RunFailed
    from common.reading import unreachable

    if isinstance(error, ConfigError):
        return REFUSED, error.problems
    if isinstance(error, RunFailed):
        return FAILED, [str(error)]
    if (told := unreachable(error)) is not None:
        return FAILED if command in STARTING else REFUSED, [told]
    return (FAILED, [_full_disk(error)]) if is_full(error) else (None, [])


def _full_disk(error: Exception) -> str:
    """Where the error does not name a file, the places that a command writes to are looked at."""
    import tempfile

    from common.disk import full_path, full_places, sentence
    from configs.places import registry_root

    named = full_path(error)
    written = [Path.cwd(), registry_root(), Path(tempfile.gettempdir()), Path("/dev/shm")]
    return sentence([named] if named is not None else full_places(written))


def _say(line: str) -> None:
    sys.stdout.flush()
    print(line, file=sys.stderr, flush=True)


app = typer.Typer(
    name="protege",
    cls=ProtegeGroup,
    help="Merge RL-trained domain experts into one student (ExOPD), and report honestly who won.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(experts, name="experts")
cli_init.register(app)
app.command()(route)
app.command()(fetch)


def main() -> None:
    """Entry point of the console script."""
    interrupts = Interrupts().install()
    with _folder_of(sys.argv[1:]):
        try:
            app(prog_name="protege")
        except SystemExit as end:
            if interrupts.number is not None and end.code == INTERRUPTED:
                sys.stdout.flush()
                # threads may still grade: this process's end ends what they use, and nobody waits for them
                os._exit(TERMINATED if interrupts.number == signal.SIGTERM else INTERRUPTED)
            code = end.code
        else:
            code = 0
    _end(code)


def _end(code: str | int | None) -> NoReturn:
    """Ends the process. Once torch is loaded it takes seconds to take all modules apart, for nothing."""
    if "torch" not in sys.modules or isinstance(code, str):
        sys.exit(code)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(BrokenPipeError):  # of `protege ... | head`
            stream.flush()
    os._exit(code or 0)


def _folder_of(arguments: Sequence[str]) -> AbstractContextManager[object]:
    if not " ".join(arguments[:2]).startswith(WITH_PROCESSES) or "--help" in arguments:
        return nullcontext()
    from trainer.processes.private import private_folder

    return private_folder()


# ---------------------------------------------------------------------------------------- arguments

RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]


def _existing_run(run: Path) -> Path:
    from common.errors import ConfigError
    from common.files import expanded

    if not (expanded(run) / "config.yaml").is_file():
        raise ConfigError(f"{run}: not a run folder (it has no config.yaml)")
    return expanded(run).absolute()


# ----------------------------------------------------------------------------------------- commands


@app.command()
def check(config: ConfigPath, overrides: Overrides = None, run_dir: RunDir = None) -> None:
    """Validate a config and preflight it on this machine; starts nothing."""
    from merging.checks.preflight import preflight
    from merging.planning.text import memory_lines
    from routing.kept import mix_of, mix_text

    loaded = load(config, overrides)
    found = preflight(loaded, run_folder(loaded, run_dir))
    mixed = mix_of(loaded.config, found.routed)
    for name, model in found.fingerprints.items():
        size = f"{model.parameters:,} parameters, context {model.max_position_embeddings}"
        typer.echo(f"model    {name}: {model.architecture}, {size}, weights {model.weights_sha256[:12]}")
    for name, served in found.served.items():
        context = "not stated" if served.max_model_len is None else f"{served.max_model_len}"
        typer.echo(f"served   {name}: {served.model} at {served.url}, context {context}")
    for name, count in found.counts().items():
        part = mix_text(mixed, loaded.config, name)
        typer.echo(f"prompts  {name}: {count}, longest {found.longest_prompt[name]} tokens, {part}")
    for name, mode in loaded.config.prompt_modes().items():
        if told := mode.told():
            typer.echo(f"mode     {name}: {told}")
    for line in memory_lines(found):
        typer.echo(f"machine  {line}")
    for note in found.notes:
        typer.echo(f"note     {note}")
    typer.echo(f"{loaded.config.name}: ready")


@app.command()
def merge(config: ConfigPath, overrides: Overrides = None, run_dir: RunDir = None) -> None:
    """Run everything: experts, routing, ExOPD, evaluation, baselines, report. Resumable."""
    loaded = load(config, overrides)
    from merging.run import merge as run_merge

    run_merge(loaded, run_folder(loaded, run_dir))


@app.command()
def plan(
    config: ConfigPath,
    overrides: Overrides = None,
    run_dir: RunDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Show what a merge would do, take and cost, stage by stage; starts nothing."""
    import json

    from merging.planning.plan import make_plan
    from merging.planning.text import show

    loaded = load(config, overrides)
    made = make_plan(loaded, run_folder(loaded, run_dir))
    if as_json:
        typer.echo(json.dumps(made.to_json(), indent=2))
    else:
        show(made)


@app.command()
def probe(
    config: ConfigPath,
    overrides: Overrides = None,
    run_dir: RunDir = None,
    reward_scale: Annotated[
        str | None,
        typer.Option("--reward-scale", metavar="A,B,...", help="Lambdas to try, instead of the config's."),
    ] = None,
    prompts: Annotated[
        int | None, typer.Option(min=1, help="Prompts of each domain, instead of the config's.")
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Answers to each prompt, instead of the config's.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Accuracy against lambda, sampled from the objective's known optimum before anything is merged."""
    import json

    loaded = load(config, overrides)
    from merging.training.probe import probe as run_probe
    from merging.training.probe import table_row

    scales = None if reward_scale is None else _numbers(reward_scale)
    show = (lambda result: None) if as_json else (lambda result: typer.echo(table_row(result)))
    results = run_probe(loaded, run_folder(loaded, run_dir), scales, prompts, samples, show)
    if as_json:
        typer.echo(json.dumps([result.to_json() for result in results], indent=2))


def _numbers(text: str) -> list[float]:
    from common.errors import ConfigError

    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(0 <= number < float("inf") for number in numbers):
        raise ConfigError(f"--reward-scale: expected numbers of at least 0, such as 1,1.25,1.5; got {text!r}")
    return numbers


@app.command()
def sweep(
    config: ConfigPath,
    overrides: Overrides = None,
    run_dir: Annotated[
        Path | None, typer.Option("--run-dir", metavar="DIR", help="Folder [default: runs/<name>.sweep].")
    ] = None,
    reward_scale: Annotated[
        str, typer.Option("--reward-scale", metavar="A,B,...", help="Lambdas of the grid.")
    ] = "0.5,1,1.25,1.5,2",
    seeds: Annotated[int, typer.Option(min=1, help="Trainings at each lambda, from `training.seed` on.")] = 3,
    probe: Annotated[
        bool, typer.Option("--probe", help="Also sample from the objective's optimum at each lambda.")
    ] = False,
) -> None:
    """Merge at several lambdas and seeds, the experts built once, and draw the curve. Resumable."""
    from merging.sweep import sweep as run_sweep

    run_sweep(config, overrides or [], _numbers(reward_scale), seeds, run_dir, probe)


@app.command(name="eval")
def evaluate(run: RunPath) -> None:
    """Evaluate the models of a run again and write its report; unchanged results are reused."""
    folder = _existing_run(run)
    from merging.run import evaluate_run

    evaluate_run(folder)


@app.command()
def report(
    run: RunPath,
    other: Annotated[
        Path | None, typer.Argument(metavar="OTHER", help="With --compare: folder of the second run.")
    ] = None,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Compare RUN with OTHER: both finished, nothing evaluated again."),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder of the comparison [default: RUN/compare-<OTHER>]."),
    ] = None,
) -> None:
    """Write a run's report from stored answers and verdicts, nothing else; or compare two finished runs."""
    from common.errors import ConfigError

    if not compare and (other is not None or out is not None):
        raise ConfigError("a second run and --out belong to --compare: protege report --compare RUN OTHER")
    folder = _existing_run(run)
    if not compare:
        from merging.run import report_run

        report_run(folder)
        return
    if other is None:
        raise ConfigError("--compare needs two runs: protege report --compare RUN OTHER")
    from merging.reports.compare_runs import compare_runs

    compare_runs(folder, _existing_run(other), out)


@app.command()
def doctor() -> None:
    """Check this installation, live: versions, verl plug-in, vLLM, graders."""
    from merging.cli.doctor import examine

    raise typer.Exit(0 if examine() else FAILED)


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    typer.echo(f"protege {installed('protege')}")


if __name__ == "__main__":
    main()
