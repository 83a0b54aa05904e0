"""The command `athanor`: look at a campaign, check a recipe, and (for the rules) run one stage."""

import argparse
import importlib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from athanor import convert, task
from athanor.recipe.graph import TRAINING

if TYPE_CHECKING:
    from athanor.campaign.campaign import Campaign

DEFAULT_RECIPE = "tiny"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0 fine, 1 a problem that was printed, 2 wrong usage, 75 stopped."""
    arguments = _parser().parse_args(argv)
    from athanor.recipe.problems import RecipeError

    try:
        command: Callable[[argparse.Namespace], int] = arguments.command
        return command(arguments)
    except RecipeError as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:  # `athanor logs … | head`
        return 0
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="athanor",
        description="From raw corpora to an evaluated model: `snakemake` runs the campaign, `athanor` looks at it.",
        epilog="Give --recipe, --site, --set and --campaign as snakemake was given them; all have its defaults.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_campaign_commands(commands)
    _add_recipe_commands(commands)
    _add_site_commands(commands)
    convert.add_command(commands)
    task.add_command(commands)
    stage = commands.add_parser("stage", help="run one stage (the rules call this)")
    stage.add_argument("name")
    stage.add_argument("--recipe", type=Path, required=True, help="resolved recipe (plan.yaml)")
    stage.add_argument("--site", required=True)
    stage.add_argument(
        "--input", action="append", default=[], metavar="NAME=MANIFEST", help="instead of the store's own artifact"
    )
    stage.add_argument("--manifest", type=Path, required=True, help="STORE/STAGE/FINGERPRINT/manifest.json")
    stage.set_defaults(command=_stage)
    return parser


def _add_campaign_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    def add(name: str, command: Callable[[argparse.Namespace], int], help_text: str) -> argparse.ArgumentParser:
        parser = commands.add_parser(name, help=help_text, description=help_text)
        parser.add_argument("--recipe", default=DEFAULT_RECIPE, metavar="NAME")
        parser.add_argument("--site", default="", metavar="NAME")
        parser.add_argument(
            "--set", action="append", default=[], metavar="KEY=VALUE", help="an override, as snakemake was given it"
        )
        parser.add_argument("--campaign", default="", metavar="NAME")
        parser.set_defaults(command=command)
        return parser

    add("summary", _summary, "print stages, times, key metrics and where to look")
    status = add("status", _status, "print what runs where, since when, how far it is, and what failed")
    status.add_argument("--watch", action="store_true", help="look again every two seconds until every stage is done")
    add("plan", _plan, "print what snakemake would run and why")
    cancel = add("cancel", _cancel, "end the running jobs of stages; what they have saved stays")
    cancel.add_argument("stages", nargs="*", metavar="STAGE", help="pretrain, or pretrain/480K")
    cancel.add_argument("--all", action="store_true", help="the jobs of every stage of the campaign")
    retry = add("retry", _retry, "start stages again that were given up, with snakemake: them and what they need")
    retry.add_argument("stages", nargs="+", metavar="STAGE", help="pretrain, or pretrain/480K")
    retry.add_argument("--roll-back", action="store_true", help="go on from before the newest checkpoint of a failed stage")
    nodes = add("nodes", _nodes, "list the nodes that failed a job and are excluded, or use them again")
    nodes.add_argument("--forgive", nargs="+", default=[], metavar="NODE", help="use these nodes again")
    add("report", _report, "write Snakemake's HTML report with the figures into the campaign's folder")
    verify = add("verify", _verify, "check that artifacts are whole")
    verify.add_argument("stages", nargs="*", metavar="STAGE", help="pretrain, or pretrain/480K; all by default")
    verify.add_argument("--deep", action="store_true", help="hash every file again")
    add("where", _where, "print the folder of a stage").add_argument("stages", nargs="*", metavar="STAGE")
    logs = add("logs", _logs, "print the log of a stage's newest attempt")
    logs.add_argument("stages", nargs=1, metavar="STAGE")
    logs.add_argument("--rank", type=int, default=0, metavar="K")
    logs.add_argument("-f", "--follow", action="store_true", help="go on until the stage ends")
    profile = add("profile", _profile, "trace the next steps of a running pretrain or sft stage, on every rank")
    profile.add_argument("stages", nargs=1, metavar="STAGE", help="pretrain/480K")
    profile.add_argument("--steps", type=_positive, default=5, metavar="N", help="how many (default 5)")
    gc = add("gc", _gc, "list what no registered campaign refers to (a dry run by default)")
    gc.add_argument("--trash", action="store_true", help="move it to STORE/trash, where it stays for the grace period")
    gc.add_argument("--empty", action="store_true", help="delete what has been in the trash for longer than that")
    gc.add_argument("--grace-days", type=float, default=14.0, metavar="N")
    gc.add_argument("--superseded", action="store_true", help="count only each campaign's last start as referring")
    track = add("track", _track, "bring the tracking spools into MLflow")
    track.add_argument("action", choices=["sync"])
    ui = add("ui", _ui, "open MLflow on the campaign's store")
    ui.add_argument("--port", type=int, default=5000)


def _add_recipe_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    recipe = commands.add_parser("recipe", help="show, check, compare or lock a recipe").add_subparsers(
        required=True, metavar="ACTION"
    )

    def add(name: str, command: Callable[[argparse.Namespace], int], help_text: str) -> argparse.ArgumentParser:
        parser = recipe.add_parser(name, help=help_text, description=help_text)
        parser.add_argument("name", metavar="NAME", help="config/recipes/NAME.yaml")
        parser.set_defaults(command=command)
        return parser

    show = add("show", _recipe_show, "print the recipe with every key")
    check = add("check", _recipe_check, "report every problem, one a line; exit 1 if there is any")
    for parser in (show, check):
        parser.add_argument("overrides", nargs="*", default=[], metavar="key=value")
    diff = add("diff", _recipe_diff, "print the keys in which another recipe, or overrides, differ, and what would rerun")
    diff.add_argument("others", nargs="+", metavar="OTHER|key=value")
    add("lock", _recipe_lock, "resolve floating versions and hashes into NAME.lock.yaml")


def _add_site_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    help_text = "check a site file against the live cluster and this machine; exit 1 if there is an error"
    doctor = commands.add_parser("doctor", help=help_text, description=help_text)
    doctor.add_argument("--site", default="", metavar="NAME")
    doctor.add_argument("--recipe", nargs="+", default=[DEFAULT_RECIPE], metavar="NAME", help="what is to run there")
    doctor.add_argument("--quick", action="store_true", help="start no job and no interpreter: look at no node from inside")
    doctor.add_argument("--wait", default="5min", metavar="TIME", help="for the small jobs that look at nodes (default 5min)")
    doctor.set_defaults(command=_doctor)
    site = commands.add_parser("site", help="draft a site file").add_subparsers(required=True, metavar="ACTION")
    help_text = "draft config/sites/NAME.yaml from what Slurm says here; never overwrites a file"
    init = site.add_parser("init", help=help_text, description=help_text)
    init.add_argument("name", nargs="?", default="", metavar="NAME", help="the cluster's own name by default")
    init.set_defaults(command=_site_init)


def _campaign(arguments: argparse.Namespace) -> "Campaign":
    from athanor.campaign.campaign import Campaign

    return Campaign.open(arguments.recipe, arguments.site, arguments.set, arguments.campaign)


def _stage(arguments: argparse.Namespace) -> int:
    from athanor.artifacts.execution import Order, execute
    from athanor.recipe.graph import STAGES

    if arguments.name not in STAGES:
        print(f"error: no stage {arguments.name!r}; there are {', '.join(STAGES)}", file=sys.stderr)
        return 2
    inputs = {name: Path(path) for name, _, path in (text.partition("=") for text in arguments.input)}
    order = Order(arguments.name, arguments.recipe, arguments.site, inputs, arguments.manifest)
    return execute(order, lambda stage: importlib.import_module(f"athanor.stages.{arguments.name}").run(stage))


def _summary(arguments: argparse.Namespace) -> int:
    from athanor.campaign.summary import print_summary

    print_summary(_campaign(arguments))
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from athanor.campaign.status import print_status, watch_status

    (watch_status if arguments.watch else print_status)(_campaign(arguments))
    return 0


def _cancel(arguments: argparse.Namespace) -> int:
    from athanor.campaign.control import cancel

    if bool(arguments.stages) is arguments.all:
        both = f"{', '.join(arguments.stages)} and --all: give one of both; an override needs a --set of its own"
        print(f"error: {both if arguments.all else 'name the stages to cancel, or give --all'}", file=sys.stderr)
        return 2

    def end(campaign: "Campaign", chosen: Sequence[object]) -> int:
        lines = list(cancel(campaign, chosen))  # type: ignore[arg-type]
        others = "" if arguments.set else " (one that snakemake was given overrides for is found by the same --set)"
        print("\n".join(lines) or f"none of them has a running job{others}")
        return 0

    return _on_selected(arguments, end)


def _retry(arguments: argparse.Namespace) -> int:
    from athanor.campaign.control import become, retry

    def start(campaign: "Campaign", chosen: Sequence[object]) -> int:
        become(retry(campaign, chosen, roll_back=arguments.roll_back))  # type: ignore[arg-type]
        return 1

    return _on_selected(arguments, start)


def _nodes(arguments: argparse.Namespace) -> int:
    from athanor.campaign.wiring import BAD_NODES
    from snakemake_executor_plugin_submitit.nodes import BadNodes

    nodes = BadNodes(_campaign(arguments).store.root / BAD_NODES)
    unknown = [node for node in arguments.forgive if not nodes.forgive(node)]
    for node in unknown:
        print(f"error: {node} is not excluded", file=sys.stderr)
    for record in nodes.all():
        until = time.strftime("%Y-%m-%d %H:%M", time.localtime(record.until))
        print(f"{record.node:16} excluded until {until}: {record.cause} ({record.job})")
    if not nodes.all():
        print("no node is excluded")
    return 1 if unknown else 0


def _report(arguments: argparse.Namespace) -> int:
    from athanor.campaign.report import write_report

    path = write_report(_campaign(arguments))
    print(path or "no report: stages are missing; snakemake makes them")
    return 0 if path else 1


def _plan(arguments: argparse.Namespace) -> int:
    from athanor.campaign.explanation import print_plan

    print_plan(_campaign(arguments))
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from athanor.campaign.inspection import verify

    return _on_selected(arguments, lambda campaign, chosen: _print_verified(verify(campaign, chosen, deep=arguments.deep)))


def _print_verified(verified: object) -> int:
    damaged = 0
    for artifact, wrong in verified:  # type: ignore[attr-defined]
        print(f"{artifact.name:28} {'; '.join(wrong) or 'whole'}")
        damaged += bool(wrong)
    return 1 if damaged else 0


def _on_selected(arguments: argparse.Namespace, act: Callable[..., int]) -> int:
    from athanor.campaign.inspection import NoSuchStage, select

    campaign = _campaign(arguments)
    try:
        return act(campaign, select(campaign, arguments.stages))
    except NoSuchStage as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _where(arguments: argparse.Namespace) -> int:
    def show(campaign: "Campaign", chosen: Sequence[object]) -> int:
        for artifact in chosen:
            folder = campaign.store.folder(artifact)  # type: ignore[arg-type]
            print(folder if len(chosen) == 1 else f"{artifact.name:28} {folder}")  # type: ignore[attr-defined]
        return 0

    return _on_selected(arguments, show)


def _logs(arguments: argparse.Namespace) -> int:
    from athanor.campaign.inspection import log_path, print_log

    def show(campaign: "Campaign", chosen: Sequence[object]) -> int:
        for artifact in chosen:
            folder = campaign.store.folder(artifact)  # type: ignore[arg-type]
            path = log_path(folder, arguments.rank)
            if path is None:
                print(f"{artifact.name} has no log of rank {arguments.rank} in {folder}", file=sys.stderr)  # type: ignore[attr-defined]
                return 1
            print_log(folder, path, arguments.follow)
        return 0

    return _on_selected(arguments, show)


def _profile(arguments: argparse.Namespace) -> int:
    from athanor.campaign.inspection import request_profile
    from athanor.campaign.state import State, state_of

    def trace(campaign: "Campaign", chosen: Sequence[object]) -> int:
        folders = {a.name: campaign.store.folder(a) for a in chosen if a.stage in TRAINING}  # type: ignore[attr-defined, arg-type]
        running = [folder for folder in folders.values() if state_of(folder) is State.RUNNING]
        if not running:
            print(f"{arguments.stages[0]}: no training stage of that name runs; athanor status says what does", file=sys.stderr)
            return 1
        traces = [path for folder in running for path in request_profile(folder, arguments.steps)]
        if not traces:
            print("the stage ended before it could trace a step", file=sys.stderr)
            return 1
        print(*traces, sep="\n")
        print("open them in https://ui.perfetto.dev or chrome://tracing", file=sys.stderr)
        return 0

    return _on_selected(arguments, trace)


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number above 0 is wanted")
    return int(text)


def _gc(arguments: argparse.Namespace) -> int:
    from athanor.campaign.collection import empty_trash, move_to_trash, unreferenced

    store = _campaign(arguments).store
    garbage = unreferenced(store, superseded=arguments.superseded)
    for item in garbage:
        print(f"{item.bytes / 1e6:10.1f} MB  {item.folder}")
    print(f"{len(garbage)} folders, {sum(g.bytes for g in garbage) / 1e6:.1f} MB, referred to by no registered campaign")
    if arguments.trash:
        print(f"moved {len(list(move_to_trash(store, garbage)))} to {store.root / 'trash'}")
    elif garbage:
        print("nothing was touched; --trash moves them out of the way")
    if arguments.empty:
        print(f"deleted {len(empty_trash(store, arguments.grace_days))} folders older than {arguments.grace_days:g} days")
    return 0


def _track(arguments: argparse.Namespace) -> int:
    from athanor.campaign.tracking import sync

    print(sync(_campaign(arguments)))
    return 0


def _ui(arguments: argparse.Namespace) -> int:
    from athanor.campaign.tracking import open_ui

    return open_ui(_campaign(arguments), arguments.port)


def _recipe_show(arguments: argparse.Namespace) -> int:
    from athanor.recipe.loading import load_recipe, resolved_text

    print(resolved_text(load_recipe(arguments.name, arguments.overrides)), end="")
    return 0


def _recipe_check(arguments: argparse.Namespace) -> int:
    from athanor.recipe.loading import read_recipe

    loaded = read_recipe(arguments.name, arguments.overrides)
    for problem in loaded.problems:
        print(problem)
    if not loaded.problems:
        from athanor.recipe.lifecycle import Lifecycle
        from athanor.recipe.loading import project_folder

        print(f"recipe {arguments.name} is fine: {len(list(Lifecycle(loaded.recipe, project_folder())))} stages")
    return 1 if loaded.problems else 0


def _recipe_diff(arguments: argparse.Namespace) -> int:
    from athanor.recipe.comparison import print_difference

    overrides = [text for text in arguments.others if "=" in text]
    others = [text for text in arguments.others if "=" not in text]
    print_difference(arguments.name, others[0] if others else arguments.name, overrides)
    return 0


def _recipe_lock(arguments: argparse.Namespace) -> int:
    locking = importlib.import_module("athanor.data.locking")
    return int(locking.lock(arguments.name))


def _doctor(arguments: argparse.Namespace) -> int:
    from athanor.campaign.checkup import doctor
    from athanor.recipe.units import Unit, UnitError, parse_quantity

    try:
        wait_seconds = parse_quantity(arguments.wait, Unit.SECONDS)
    except UnitError as error:
        print(f"error: --wait {arguments.wait}: {error}", file=sys.stderr)
        return 2
    return doctor(arguments.recipe, arguments.site, arguments.quick, wait_seconds)


def _site_init(arguments: argparse.Namespace) -> int:
    from athanor.campaign.checkup import site_init

    return site_init(arguments.name)
