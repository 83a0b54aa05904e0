"""Whether MLflow's database may lie where it would: SQLite needs file locks that work between processes."""

import subprocess
import sys
import tempfile
from pathlib import Path

from athanor.cluster.findings import Finding, error, ok, warning
from athanor.cluster.storage import Mount, nearest_folder

_SECONDS = 30  # broken lock servers hang
_HOLD = """
import sqlite3, subprocess, sys
held = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)
held.execute("CREATE TABLE t (x)")
held.execute("BEGIN IMMEDIATE")
other = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None).execute('BEGIN IMMEDIATE')"
second = subprocess.run([sys.executable, "-c", other, sys.argv[1]], capture_output=True, text=True)
print("excluded" if "database is locked" in second.stderr else "not excluded: " + second.stderr[-200:])
"""  # the second must be another process: SQLite keeps the locks of one process to itself


def check_database(uri: str, mount: Mount) -> list[Finding]:
    """Whether two processes exclude each other on a SQLite database at `uri`; `mount` is what it lies on."""
    path = sqlite_path(uri)
    if path is None:
        return []
    way_out = "set tracking_uri to an MLflow server (http://…) or to a database on a local disk: sqlite:////local/$USER/mlflow.db"
    trouble = lock_trouble(nearest_folder(path.parent))
    if trouble:
        return [error(f"MLflow's database {path} cannot be locked on {mount.kind}: {trouble}", way_out)]
    if mount.is_network:
        found = f"MLflow's database {path} lies on {mount.kind}, which SQLite is not made for, though locks work now"
        return [warning(found, f"{way_out}, if it is ever slow or says `database is locked`")]
    return [ok(f"MLflow's database {path} can be locked")]


def sqlite_path(uri: str) -> Path | None:
    """The file of a SQLite tracking URI; None for a server."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def lock_trouble(folder: Path) -> str:
    """Say what is wrong with SQLite's locks in `folder`; empty when one process excludes another."""
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".athanor-doctor-", ignore_cleanup_errors=True) as place:
            command = [sys.executable, "-c", _HOLD, f"{place}/probe.db"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer in {_SECONDS} s; its lock server may be down"
    except OSError as wrong:
        return str(wrong)
    said = (done.stdout.strip() or done.stderr.strip()).splitlines()
    last = said[-1] if said else f"exit code {done.returncode}"
    return "" if last == "excluded" else last
