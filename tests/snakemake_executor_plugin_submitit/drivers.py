"""Snakemake drivers as processes of their own, so that a test can kill them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from snakemake_executor_plugin_submitit.backend import Submission, submit_local
from snakemake_executor_plugin_submitit.journal import Attempt, Intent, JobFolder, JobKind, read_jobs
from snakemake_executor_plugin_submitit.launch import StageTask
from snakemake_executor_plugin_submitit.processes import this_process

SOURCE_ROOT = Path(__file__).parents[2] / "workflow"
# A shell script of two arguments, time and units done: it leaves a progress mark for the executor.
MARK = 'printf \'{"time": %s, "done": %s, "unit": "steps"}\' $1 $2 > $SUBMITIT_ATTEMPT_FOLDER/heartbeat-here.json'
DEADLINE_SECONDS = 180.0  # only a broken test takes as long, on a machine that others load


def wait_until(happened: Callable[[], object], what: str, deadline_seconds: float = DEADLINE_SECONDS) -> None:
    """Poll until `happened()` is true; fail, saying `what` did not happen, after the deadline."""
    end = time.monotonic() + deadline_seconds
    while not happened():
        assert time.monotonic() < end, f"not within {deadline_seconds} s: {what}"
        time.sleep(0.05)


@dataclass
class Checkout:
    """A folder with a Snakefile, in which drivers can be started."""

    folder: Path
    cluster: str = "local"

    def write(self, text: str, name: str = "Snakefile") -> None:
        """Write a file of the workflow."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip())

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a driver."""
        command = [
            sys.executable,
            "-m",
            "snakemake",
            "--executor",
            "submitit",
            "--jobs",
            "20",
            "--scheduler",
            "greedy",
            "--submitit-cluster",
            self.cluster,
            "--latency-wait",
            "5",
            "--rerun-incomplete",
            *arguments,
        ]
        path = os.pathsep.join(filter(None, [str(SOURCE_ROOT), os.environ.get("PYTHONPATH")]))
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": path},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def run(self, *arguments: str, deadline_seconds: float = DEADLINE_SECONDS) -> tuple[int, str]:
        """Run a driver to its end; return its exit code and what it said."""
        driver = self.start(*arguments)
        try:
            said, _ = driver.communicate(timeout=deadline_seconds)
        finally:
            kill(driver)
        return driver.returncode, said

    def run_well(self, *arguments: str, deadline_seconds: float = DEADLINE_SECONDS) -> str:
        """Run a driver that must succeed; return what it said."""
        code, said = self.run(*arguments, deadline_seconds=deadline_seconds)
        assert code == 0, said
        return said

    def lines(self, name: str) -> list[str]:
        """Return the lines of a file, none when it is not there."""
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def attempts(self, root: str = ".submitit") -> list[Attempt]:
        """Return the attempts of all jobs of this checkout's journal."""
        return [attempt for attempts in read_jobs(self.folder / root).values() for attempt in attempts]


def kill(driver: subprocess.Popen[str]) -> None:
    """Kill a driver without a chance to clean up."""
    if driver.poll() is None:
        driver.kill()
        driver.communicate()


def interrupt(driver: subprocess.Popen[str], number: signal.Signals = signal.SIGINT) -> str:
    """Send a signal to the driver's whole process group, as a terminal does; return what it said until its end."""
    os.killpg(driver.pid, number)
    said, _ = driver.communicate(timeout=DEADLINE_SECONDS)
    return said


@dataclass(frozen=True)
class Submit:
    """Submits one local attempt without Snakemake, to set time limits of seconds."""

    folder: Path

    def __call__(
        self, command: str, ranks: int = 1, minutes: float = 0.0, delay_seconds: float = 0.0, **values: object
    ) -> Attempt:
        """Start `command`; `values` are further fields of its StageTask."""
        intent = Intent("key", "uid", "spec", JobKind.LOCAL, "rule", command, ranks, this_process(), "me")
        attempt = JobFolder(self.folder / "job").claim(1, intent)
        assert attempt is not None
        task = StageTask(command, "/bin/bash", str(self.folder), str(attempt.folder), 4, 1, delay_seconds, **values)
        submit_local(
            attempt,
            Submission(
                task,
                {"tasks_per_node": ranks, "timeout_min": minutes, "signal_delay_s": delay_seconds, "devices": (), "setup": []},
            ),
        )
        return attempt
