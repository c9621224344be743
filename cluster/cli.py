"""The command `concerto`. A `ConcertoError` ends it with one line on stderr and its exit code; see `main`."""

from __future__ import annotations

import asyncio
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cluster.cli_options import AT, CONSOLE, ConfigFile, Data, Overrides, Preset
from cluster.interruption import interruptible
from cluster.jobs_cli import AS_THEY_ARE, jobs_app, submit
from cluster.memory_cli import learn, memory_app
from cluster.reproduce_cli import reproduce
from trajectories.errors import ConcertoError, UserError
from trajectories.files import FAULTS, check_file, check_folder

app = typer.Typer(
    help="Concerto trains LLM agents on a Ray cluster.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Install the data of an environment.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(memory_app, name="memory")
app.add_typer(jobs_app, name="jobs")
app.command("submit", context_settings=AS_THEY_ARE)(submit)
app.command("learn")(learn)
app.command("reproduce")(reproduce)

INTERRUPTED = 130


def _print_version(asked: bool) -> None:
    if asked:
        try:
            print(f"concerto {metadata.version('concerto')}")
        except metadata.PackageNotFoundError:
            print("concerto, not installed: run from its source")
        raise typer.Exit


@app.callback()
def concerto(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Concerto trains LLM agents on a Ray cluster."""


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Run directory; new unless --resume.", **AT)],
    preset: Preset = "local",
    config: ConfigFile = None,
    set_: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in --out.")] = False,
) -> None:
    """Train an agent: SFT, mixed and GRPO stages as the schedule says."""
    from cluster.config.loading import load_config

    run_config = load_config(preset, config, set_ or [])  # before the imports that take seconds
    check_folder(out)
    from cluster.inputs.run_plan import plan_run

    plan = plan_run(run_config, out, resume)  # before those of Ray
    from cluster.commands.train import run_training
    from cluster.reporting.best import FOLDER
    from cluster.reporting.evaluation import run_evaluations
    from cluster.reporting.evaluation_tables import evaluation_tables

    run_training(plan, CONSOLE)
    for table in evaluation_tables(run_evaluations(out)):
        CONSOLE.print(table)
    best = f"{FOLDER}/, " if (out / FOLDER).exists() else ""
    CONSOLE.print(f"The run is in {out}: model/, {best}metrics.jsonl, learning_curve.svg, evaluations/, trajectories/.")


@app.command("eval")
def evaluate(
    model: Annotated[str, typer.Option(help="Model directory, hub name, or concerto-tiny.")],
    panel: Annotated[str, typer.Option(help="Tasks, e.g. alfworld/valid_seen or alfworld/generated/heldout.")],
    out: Annotated[Path, typer.Option(help="JSON file to write.", **AT)],
    data: Data = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Play only the first so many tasks.")] = None,
    samples: Annotated[int, typer.Option(min=0, help="Sampled episodes a task, beside the greedy one.")] = 1,
    preset: Preset = "local",
    config: ConfigFile = None,
    set_: Overrides = None,
) -> None:
    """Play a whole panel, greedily and sampled at schedule.temperature, and report success with 95 % intervals."""
    from cluster.config.loading import load_config

    settings = _with_data([f"policy.model={model}", *(set_ or [])], panel.partition("/")[0], data)
    run_config = load_config(preset, config, settings)
    check_file(out)
    from cluster.inputs.models import resolve_model
    from envs import load_panel

    resolve_model(run_config.policy.model)  # before the imports that take seconds
    played = load_panel(panel, *run_config.opening(panel))
    from cluster.commands.evaluate import run_evaluation
    from cluster.reporting.evaluation_tables import type_tables

    result = run_evaluation(run_config, played, limit, samples, out, CONSOLE)
    for table in type_tables(result):
        CONSOLE.print(table)
    CONSOLE.print(f"Written to {out} (panel {result.panel_hash[:12]}).")


@app.command()
def probe(
    model: Annotated[str, typer.Option(help="Model directory, hub name, or concerto-tiny.")],
    corpus: Annotated[Path, typer.Option(help="Sequences table in Parquet, e.g. RUN/demonstrations.parquet.", **AT)],
    out: Annotated[Path, typer.Option(help="Parquet file to write; an interrupted probe goes on.", **AT)],
    metric: Annotated[
        str, typer.Option(help="gini, kurtosis, cv, hoyer, entropy, top_share, gini_per_entry.")
    ] = "gini",
    workers: Annotated[int, typer.Option(min=1, help="Models that probe at once; each takes a GPU if any.")] = 1,
    token_budget: Annotated[int, typer.Option(min=1, help="Tokens of one pass.")] = 1024,
    precision: Annotated[str, typer.Option(help="fast (bfloat16 where it is native) or policy (float32).")] = "fast",
    sample_layers: Annotated[int | None, typer.Option(min=1, help="Last layers to measure; none for all.")] = None,
    sketch: Annotated[int, typer.Option(min=0, help="Columns to see each gradient through; 0 sees it whole.")] = 0,
    cache: Annotated[Path | None, typer.Option(help="Directory of router.cache, shared with runs.", **AT)] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster to join; none starts a private one.")] = None,
) -> None:
    """Score the trajectories of a corpus by how their gradients are spread over the model's matrices."""
    from cluster.config.loading import check_router_settings

    probe = {"token_budget": token_budget, "precision": precision, "sample_layers": sample_layers, "sketch": sketch}
    settings = check_router_settings(metric=metric, cache=str(cache) if cache else None, **probe)
    check_file(out)
    from cluster.inputs.models import resolve_model
    from cluster.inputs.probe_files import open_corpus

    open_corpus(corpus)  # before the imports that take seconds
    resolve_model(model)
    from cluster.commands.probe import Workers, run_probe

    scores = run_probe(model, corpus, settings, out, Workers(workers, address), CONSOLE)
    CONSOLE.print(f"Scored {scores.num_rows} trajectories by {metric}; written to {out}.")


@app.command()
def route(
    scores: Annotated[Path, typer.Option(help="File that `concerto probe` wrote.", **AT)],
    out: Annotated[Path, typer.Option(help="Parquet file to write; `--set router.routes=FILE` trains by it.", **AT)],
    policy: Annotated[str, typer.Option(help="median_split, inverse, random, magnitude, loss, …")] = "median_split",
    share: Annotated[float, typer.Option(help="Share that goes to SFT, above 0 and up to 1.")] = 0.5,
    thresholds: Annotated[str, typer.Option(help="environment (one each) or corpus (one for all).")] = "environment",
    seed: Annotated[int, typer.Option(help="Seed of the random routes.")] = 0,
    report: Annotated[Path | None, typer.Option(help="HTML file, or folder of one, about the split.", **AT)] = None,
    against: Annotated[Path | None, typer.Option(help="For --report: scores by another model.", **AT)] = None,
    corpus: Annotated[Path | None, typer.Option(help="For --report: the corpus, to count turns.", **AT)] = None,
) -> None:
    """Split scored trajectories: the lower part to SFT, the tasks of the upper part to GRPO."""
    from cluster.config.loading import check_router_settings

    settings = check_router_settings(policy=policy, share=share, thresholds=thresholds)
    check_file(out)
    if report is None and (against or corpus):
        raise UserError("--against and --corpus are for the page that --report names: add --report FILE.html.")
    from cluster.commands.route import Report, run_route

    page = Report(report, against, corpus) if report is not None else None
    routes = run_route(scores, settings, seed, out, page)["route"].to_pylist()
    CONSOLE.print(f"{routes.count('sft')} trajectories to SFT, {routes.count('grpo')} to GRPO; written to {out}.")


@app.command()
def compare(
    matrix: Annotated[Path, typer.Argument(help="YAML: preset, settings, seeds, arms, reference.", **AT)],
    out: Annotated[
        Path, typer.Option(help="Folder of the runs and the results; the same command goes on with it.", **AT)
    ],
) -> None:
    """Train every arm of a matrix with every seed, and write one table with intervals, seconds and speed-up."""
    check_folder(out)
    from cluster.commands.compare import run_compare
    from cluster.reporting.summary import markdown

    CONSOLE.print(markdown(run_compare(matrix, out, CONSOLE)), highlight=False, markup=False)
    CONSOLE.print(f"Written to {out}: table.md, comparison.json, success.svg, seconds.svg, runs/.")


@app.command()
def doctor(preset: Preset = "local", config: ConfigFile = None, set_: Overrides = None) -> None:
    """Look at this machine: what is wrong with it, and what mends it; exit 2 where something must be mended."""
    from cluster.commands.doctor import show_doctor
    from cluster.config.loading import load_config

    show_doctor(load_config(preset, config, set_ or []), CONSOLE)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run directories; several are laid over one another.", **AT)],
    out: Annotated[Path | None, typer.Option(help="HTML file to write, which needs nothing else.", **AT)] = None,
    serve: Annotated[bool, typer.Option("--serve", help="Serve all episodes on this machine instead.")] = False,
    episodes: Annotated[int, typer.Option(min=0, help="Episodes in the file, of all runs together.")] = 200,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of --serve; 0 takes a free one.")] = 8790,
) -> None:
    """Show runs as a page: curves, evaluations, settings, and every episode turn by turn."""
    if (out is None) != serve:
        raise UserError("a report is either written or served: give --out FILE.html, or --serve.")
    if out is not None:
        check_file(out)
    from cluster.commands.report import serve_report, write_report

    if out is None:
        serve_report(runs, port, CONSOLE)
    else:
        write_report(runs, out, episodes, CONSOLE)


@app.command()
def plan(preset: Preset = "cluster", config: ConfigFile = None, set_: Overrides = None) -> None:
    """Print what a run takes of each GPU and where each actor would go; exit 2 with the shortfall of the cluster."""
    from cluster.commands.plan import show_plan
    from cluster.config.loading import load_config

    show_plan(load_config(preset, config, set_ or []), CONSOLE)


@app.command()
def check(preset: Preset = "local", config: ConfigFile = None, set_: Overrides = None) -> None:
    """Print the first prompt of each environment as the model will read it, and how an answer to it is read."""
    from cluster.config.loading import load_config

    run_config = load_config(preset, config, set_ or [])
    from cluster.commands.check import show_check

    show_check(run_config, CONSOLE)


@app.command()
def play(
    environment: Annotated[str, typer.Argument(help="alfworld, webshop, questions, or one of your own.")],
    task_id: Annotated[str, typer.Argument(help="Task id, e.g. 17 for webshop; `concerto tasks` lists them.")],
    data: Data = None,
    set_: Overrides = None,
) -> None:
    """Play one task yourself."""
    from cluster.commands.play import play_task
    from cluster.config.loading import load_config

    play_task(load_config("local", None, _with_data(set_, environment, data)), environment, task_id, Console())


@app.command()
def tasks(
    panel: Annotated[str, typer.Argument(help="Panel, e.g. webshop/test or questions/train.")],
    data: Data = None,
    set_: Overrides = None,
) -> None:
    """Print the ids of a panel's tasks, one a line."""
    from cluster.config.loading import load_config
    from envs import load_panel

    config = load_config("local", None, _with_data(set_, panel.partition("/")[0], data))
    for task_id in load_panel(panel, *config.opening(panel)).task_ids:
        print(task_id)


@data_app.command("alfworld")
def data_alfworld(
    source: Annotated[
        Path | None, typer.Option("--from", help="Official archive or folder; none downloads it.", **AT)
    ] = None,
) -> None:
    """Install the official ALFWorld games, from a file or by download; later commands find them."""
    from cluster.commands.data import install_alfworld

    install_alfworld(source, CONSOLE)


@data_app.command("webshop")
def data_webshop(
    source: Annotated[
        Path | None, typer.Option("--from", help="Folder with the original's files; none downloads them.", **AT)
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Download all 1.18 million products, not 1,000.")] = False,
) -> None:
    """Install the original WebShop products, from a folder or by download; later commands find them."""
    from cluster.commands.data import install_webshop

    install_webshop(source, "full" if full else "1000", CONSOLE)


@data_app.command("import")
def data_import(
    recordings: Annotated[Path, typer.Argument(help="Recorded episodes: .json, .jsonl or .jsonl.xz.", **AT)],
    environment: Annotated[str, typer.Option(help="alfworld or webshop.")],
    out: Annotated[
        Path, typer.Option(help="Parquet file to write; a run takes it as schedule.demonstrations_file.", **AT)
    ],
    data: Data = None,
    preset: Preset = "local",
    config: ConfigFile = None,
    set_: Overrides = None,
) -> None:
    """Play recorded demonstrations again and keep those that win, but none of tasks in a test or dev split."""
    from cluster.config.loading import load_config

    run_config = load_config(preset, config, _with_data(set_, environment, data))
    check_file(out)
    from cluster.inputs.recorded import import_demonstrations

    import_demonstrations(run_config, environment, recordings, out, CONSOLE)


@app.command()
def top(run: Annotated[Path, typer.Argument(help="Run directory.", **AT)]) -> None:
    """Watch a run in the terminal: where it is, what it learns, where its time goes, and what went wrong."""
    from cluster.commands.top import show_top

    show_top(run, CONSOLE)


@app.command()
def replay(
    run: Annotated[Path, typer.Argument(help="Run directory.", **AT)],
    start: Annotated[
        int | None, typer.Option(min=0, help="Step after whose checkpoint to begin; else the first.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps to train; else all.")] = None,
) -> None:
    """Train once more on what a run recorded, without engines or Ray: for breakpoints, and to see what changes do."""
    from cluster.commands.replay import run_replay

    run_replay(run, start, steps, CONSOLE)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Run directory; numbered when it is taken.", **AT)] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seed of both runs.")] = 0,
) -> None:
    """Watch the small embedded model learn ALFWorld on this machine: base, SFT, GRPO, and a table."""
    from cluster.commands.demo import run_demo

    run_demo(out, seed, CONSOLE)


def _with_data(overrides: list[str] | None, environment: str, data: Path | None) -> list[str]:
    """The overrides, and the data of this environment where they are given."""
    return [*(overrides or []), *([f"data.{environment}={data}"] if data is not None else [])]


def main() -> None:
    """Run the command. Exit codes: 0 done, 1 the run failed, 2 wrong input or too small a cluster, 130 interrupted, 143
    by SIGTERM, 129 by a terminal that closed."""
    with interruptible() as interruption:
        try:
            code, said = _end()
        except BaseException:
            if interruption.code is None:
                raise
            code, said = interruption.code, ""
    if interruption.code is not None:  # it has said its line, and what failed on the way out is of no interest
        code, said = interruption.code, ""
    if said:
        print(f"concerto: {said}", file=sys.stderr)
    sys.exit(code)


def _end() -> tuple[int, str]:
    """Run the command; its exit code, and what there is to say about it."""
    try:
        code = app(standalone_mode=False) or 0
        if sys.stdout is not None:  # as after `>&-`
            sys.stdout.flush()  # here, where it is told that nothing more can be printed
        return code, ""
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0, ""
    except typer.TyperException as error:  # an option or argument that is missing, unknown or of a wrong type
        said = error.format_message().strip().rstrip(".")  # nothing where its help is printed, as of `concerto` alone
        return error.exit_code, f"{said[0].lower()}{said[1:]}; add --help to see what there is" if said else ""
    except ConcertoError as error:
        message = str(getattr(error, "cause", error))  # what an actor raised has Ray's report around it
        return error.exit_code, f"{message}; {error.fix}" if error.fix else message
    except OSError as error:
        if error.filename is None and error.errno not in FAULTS:
            raise  # no file that a user could look at: a fault of ours, or of the network
        name = error.filename or "where this prints to"
        return UserError.exit_code, f"{name}: {error.strerror}; check the path, its permissions and its disk"
    except (asyncio.CancelledError, KeyboardInterrupt):
        return INTERRUPTED, "interrupted"
