"""The site's scratch folder, as the node names it on which a job runs.

A job does not export TMPDIR from its batch script: slurmd replaces one whose parent folder is missing on a node by /tmp,
with no more than a line in a log, and a batch script runs on the first node only.
"""

import getpass
import os
import socket
from pathlib import Path
from string import Template


class ScratchError(Exception):
    """The scratch folder cannot be used on this node: its name, why, and the way out."""


def make_scratch(text: str) -> Path:
    """Make the folder that `scratch` names; `$USER`, `$SLURM_JOB_ID` and the like are this process's. Raises ScratchError."""
    where = f"scratch={text!r} on {socket.gethostname()}"
    name = Template(text).safe_substitute({"USER": getpass.getuser(), **os.environ})
    if "$" in name:
        raise ScratchError(f"{where}: is {name} here; name only variables that a job has, such as $USER and $SLURM_JOB_ID")
    folder = Path(name).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        usable = os.access(folder, os.W_OK | os.X_OK)
    except OSError as error:
        raise ScratchError(f"{where}: cannot be made ({error.strerror}); name one below a folder of yours") from error
    if not usable:
        raise ScratchError(f"{where}: you may not write to {folder}; name a folder of your own, such as {text}/$USER")
    return folder
