"""A Slurm of one's own, to try things out on and to break: start, stop, status, env, fault.

python -m tests.cluster start --accounting        # two nodes of 64 CPUs and 8 GPUs, on paper
eval "$(python -m tests.cluster env)"             # squeue, sbatch, snakemake talk to it
python -m tests.cluster fault /tmp/test-cluster   # the ways to break it
python -m tests.cluster stop
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import sys
import typing
from pathlib import Path
from typing import NoReturn

from .configuration import ClusterError, Layout, read_layout
from .faults import KINDS
from .slurm import SlurmCluster

DEFAULT_FOLDER = Path("/tmp/test-cluster")
SITE_FILE = "site.yaml"


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with the command line."""

    def error(self, message: str) -> NoReturn:
        """See argparse."""
        self.exit(2, f"{self.prog}: {message}; --help says more\n")


def main() -> None:
    """Do what the command line says."""
    arguments = _parser().parse_args()
    arguments.folder = arguments.folder.absolute()
    try:
        arguments.act(arguments)
    except ClusterError as error:
        sys.exit(str(error))


def start(arguments: argparse.Namespace) -> None:
    """Start a cluster in a folder that is new, or had one."""
    folder = arguments.folder
    if folder.exists() and any(folder.iterdir()):
        if _cluster(folder).processes():
            raise ClusterError(f"a cluster runs in {folder}; stop it first: {_command('stop', folder)}")
        shutil.rmtree(folder)
    nodes = tuple(f"node{number + 1}" for number in range(arguments.nodes))
    SlurmCluster(Layout(folder, nodes, arguments.accounting, arguments.memory_limits)).start()
    (folder / SITE_FILE).write_text(_SITE.format(folder=folder))
    snakemake = Path(sys.executable).with_name("snakemake")
    print(f"{arguments.nodes} nodes run in {folder}. What to type next:")
    print(f'  eval "$({_command("env", folder)})"     # now sinfo, sbatch and snakemake talk to it')
    print(f"  {_short(snakemake)} --jobs 4 --config recipe=tiny site={folder}/{SITE_FILE}     # every stage a Slurm job")
    print(f"  {_command('fault', folder)}     # the ways to break it")
    print(f"  {_command('stop', folder)}     # ends it and removes the folder, its store too")


def stop(arguments: argparse.Namespace) -> None:
    """End a cluster and remove its folder."""
    _cluster(arguments.folder).stop()
    shutil.rmtree(arguments.folder)


def status(arguments: argparse.Namespace) -> None:
    """Say what runs."""
    cluster = _cluster(arguments.folder)
    names = ["munged", *(["mariadbd", "slurmdbd"] if cluster.layout.accounting else []), "slurmctld"]
    names += [f"slurmd.{node}" for node in cluster.layout.nodes]
    gone = [name for name in names if cluster.daemon(name) is None]
    print(f"{len(cluster.processes())} processes in {cluster.layout.folder}; not running: {', '.join(gone) or 'none'}")
    if "slurmctld" not in gone:
        print(cluster.ask("sinfo", "-N", "-o", "%8N %10P %10T %C %m %G"), end="")


def env(arguments: argparse.Namespace) -> None:
    """Print shell lines that make Slurm's commands talk to the cluster."""
    layout = _cluster(arguments.folder).layout
    print(f"export SLURM_CONF={layout.configuration}")
    print(f'export PATH="{layout.programs}:$PATH"')


def fault(arguments: argparse.Namespace) -> None:
    """Break something, or repair it; list the ways when none is named."""
    if arguments.kind is None:
        arguments.list_kinds()
        return
    kind = KINDS[arguments.kind]
    values = {field.name: getattr(arguments, field.name) for field in kind.arguments()}
    broken = kind(_cluster(arguments.folder), **values)
    print(broken.repair() if arguments.repair else broken.inflict())


# Partition preempt, so that every fault finds its job there.
_SITE = """extends: laptop
store: {folder}/store
resources:
  default: {{partition: preempt}}
"""


def _cluster(folder: Path) -> SlurmCluster:
    return SlurmCluster(read_layout(folder))


def _parser() -> Parser:
    parser = Parser(prog="python -m tests.cluster", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    for act in (start, stop, status, env, fault):
        action = actions.add_parser(act.__name__, help=act.__doc__, description=act.__doc__)
        action.set_defaults(act=act)
        if act is fault:
            action.add_argument("folder", metavar="DIR", type=Path, help=f"the cluster's folder, such as {DEFAULT_FOLDER}")
            _add_kinds(action)
        else:
            meaning = "the cluster's folder (%(default)s)"
            action.add_argument("folder", metavar="DIR", nargs="?", type=Path, default=DEFAULT_FOLDER, help=meaning)
        if act is start:
            action.add_argument("--nodes", type=_count, default=2, help="how many (%(default)s)")
            action.add_argument("--accounting", action="store_true", help="slurmdbd and MariaDB too, so that sacct answers")
            action.add_argument("--memory-limits", action="store_true", help="kill jobs that use more memory than they asked for")
    return parser


def _add_kinds(parser: argparse.ArgumentParser) -> None:
    """Add one command per kind of fault: its fields are the arguments."""
    parser.set_defaults(list_kinds=parser.print_help)
    kinds = parser.add_subparsers(metavar="KIND", dest="kind")
    for name, kind in KINDS.items():
        text = kind.__doc__ or ""
        one = kinds.add_parser(name, help=text.splitlines()[0], description=text)
        hints = typing.get_type_hints(kind)
        for field in kind.arguments():
            _add_argument(one, field, hints[field.name])
        one.add_argument("--repair", action="store_true", help=kind.way_back or argparse.SUPPRESS)


def _add_argument(parser: argparse.ArgumentParser, field: dataclasses.Field[object], kind: type) -> None:
    meaning = field.metadata["meaning"]
    option = f"--{field.name.replace('_', '-')}"
    needed = field.default is dataclasses.MISSING
    if not needed and field.default is not False:
        meaning += " (%(default)s)"
    if field.default is False:
        parser.add_argument(option, action="store_true", help=meaning)
    elif field.metadata["positional"]:
        place = {} if needed else {"nargs": "?", "default": field.default}
        parser.add_argument(field.name, metavar=field.name.upper(), type=kind, help=meaning, **place)
    else:
        parser.add_argument(option, type=kind, default=field.default, metavar=kind.__name__.upper(), help=meaning)


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number of nodes; give 1 or more")
    return int(text)


def _command(action: str, folder: Path) -> str:
    return f"{_short(Path(sys.executable))} -m tests.cluster {action} {folder}"


def _short(path: Path) -> str:
    """Return the path as it is typed here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


if __name__ == "__main__":
    main()
