"""Asking a command of the machine; tests answer in its place."""

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from snakemake_executor_plugin_submitit.slurm import outside_of_jobs

_COMMAND_SECONDS = 60
NOT_INSTALLED = 127
_TIMED_OUT = 124


@dataclass(frozen=True)
class Answer:
    """How a command ended and what it said."""

    code: int
    out: str = ""
    err: str = ""

    @property
    def last_words(self) -> str:
        """The last line it said, complaints first."""
        lines = [line.strip() for line in (self.err.strip() or self.out).splitlines() if line.strip()]
        return lines[-1] if lines else f"exit code {self.code}, no word"


Ask = Callable[[Sequence[str]], Answer]


def ask(command: Sequence[str]) -> Answer:
    """Run `command` as from outside of any job, and return what it said; one that is missing or silent says so too."""
    try:
        done = subprocess.run(
            command, env=outside_of_jobs(), capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False
        )
    except FileNotFoundError:
        return Answer(NOT_INSTALLED, "", f"{command[0]} is not installed")
    except subprocess.TimeoutExpired:
        return Answer(_TIMED_OUT, "", f"{command[0]} gave no answer in {_COMMAND_SECONDS} s")
    return Answer(done.returncode, done.stdout, done.stderr)
