"""The cluster's accounting: slurmdbd with a MariaDB of its own, all in the cluster's folder and reached through a socket."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from .configuration import CLUSTER_NAME, ClusterError

if TYPE_CHECKING:
    from .slurm import SlurmCluster

INSTALL = "apt-get install -y --no-install-recommends slurmdbd mariadb-server"
PROGRAMS = ("slurmdbd", "mariadbd", "mariadb-install-db")


def start_accounting(cluster: SlurmCluster) -> None:
    """Set up an empty database and start everything on it; before slurmctld, which registers with slurmdbd."""
    _create_database(cluster)
    start_database(cluster)
    start_slurmdbd(cluster)
    cluster.ask("sacctmgr", "--immediate", "--quiet", "add", "cluster", CLUSTER_NAME)


def start_database(cluster: SlurmCluster) -> None:
    """Start MariaDB, which trusts root on its socket and listens nowhere else; wait until it answers."""
    folder = cluster.layout.folder
    options = [
        f"--socket={_socket(cluster)}",
        "--skip-networking",
        f"--pid-file={folder}/run/mariadbd.pid",
        f"--log-error={folder}/log/mariadbd.log",
        "--innodb-buffer-pool-size=64M",
        "--innodb-flush-log-at-trx-commit=0",  # nobody needs the database after a crash of the machine
        "--innodb-lock-wait-timeout=900",  # slurmdbd asks for it
        "--performance-schema=0",
    ]
    cluster.start_daemon("mariadbd", ["mariadbd", *_where(cluster), *options])
    question = ("mariadb", "--no-defaults", f"--socket={_socket(cluster)}", "--execute=select 'ready'")
    cluster.wait(lambda: "ready" in cluster.ask(*question), "mariadbd")


def start_slurmdbd(cluster: SlurmCluster) -> None:
    """Start slurmdbd, which finds its configuration beside slurm.conf; wait until it answers."""
    cluster.start_daemon("slurmdbd", ["slurmdbd", "-D"], {"MYSQL_UNIX_PORT": _socket(cluster)})
    cluster.wait(lambda: "Cluster" in cluster.ask("sacctmgr", "show", "cluster"), "slurmdbd")


def _create_database(cluster: SlurmCluster) -> None:
    (cluster.layout.folder / "db").mkdir()
    command = ["mariadb-install-db", *_where(cluster), "--skip-test-db", "--skip-name-resolve", "--innodb-log-file-size=8M"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise ClusterError(f"mariadb-install-db: {(answer.stdout + answer.stderr).strip()[-600:]}")


def _where(cluster: SlurmCluster) -> list[str]:
    folder = cluster.layout.folder
    return ["--no-defaults", "--user=root", f"--datadir={folder}/db", f"--tmpdir={folder}/run"]


def _socket(cluster: SlurmCluster) -> str:
    return f"{cluster.layout.folder}/run/mariadb.sock"
