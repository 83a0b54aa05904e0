"""Run a download tool and turn its failure into an error that says what to do."""

import subprocess
from pathlib import Path

from athanor.artifacts.run import StageError

SHOWN = 6  # last lines of the tool's complaint


def run_tool(command: list[str], folder: Path, way_out: str) -> None:
    """Run `command` in `folder`. Raises StageError with the tool's own last words and `way_out`."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        complaint = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()][-SHOWN:]
        raise StageError(f"{' '.join(command)}: exit code {done.returncode}\n" + "\n".join(complaint) + f"\n{way_out}")
