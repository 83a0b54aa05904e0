"""Slurm's commands as whoever uses the cluster calls them: wrappers in DIR/bin, which a fault can disturb while they are used."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from .configuration import Layout
from .processes import MARK

NAMES = ("sbatch", "squeue", "sacct", "scontrol", "scancel", "sinfo")

# Both snippets always exist, empty while nothing is wrong, and change by renaming: a command that starts meanwhile reads
# either the old or the new one. Off, they cost a shell's start, about a millisecond.
_WRAPPER = """#!/bin/sh
# {mark}: {real}, which `python -m tests.cluster fault {folder} slow|failing` disturbs
. {folder}/run/slow.{name}
. {folder}/run/failing.{name}
exec {real} "$@"
"""


def search_path() -> str:
    """Return the PATH on which Slurm's own programs are: with those for root, without the wrappers of any cluster."""
    folders = [*os.environ.get("PATH", "").split(os.pathsep), "/usr/sbin", "/sbin"]
    return os.pathsep.join(folder for folder in folders if folder and not _has_wrappers(Path(folder)))


def install_wrappers(layout: Layout) -> None:
    """Write a wrapper for every command."""
    for name in NAMES:
        set_snippet(layout, "slow", name, "")
        set_snippet(layout, "failing", name, "")
        wrapper = layout.programs / name
        wrapper.write_text(_WRAPPER.format(mark=MARK, real=wrapped_program(name), folder=layout.folder, name=name))
        wrapper.chmod(0o755)


def set_snippet(layout: Layout, fault: str, name: str, text: str) -> None:
    """Replace the shell lines that run before a command; the empty text takes the fault away."""
    path = layout.folder / "run" / f"{fault}.{name}"
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text)
    draft.replace(path)


def wrapped_program(name: str) -> str:
    return shutil.which(name, path=search_path()) or name


def _has_wrappers(folder: Path) -> bool:
    wrapper = folder / NAMES[0]
    return wrapper.is_file() and MARK.encode() in wrapper.read_bytes()[:200]
