"""`python -m tests.cluster start|stop|status|env [FOLDER]`: a Slurm of one's own, for trying things out."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from .configuration import Layout
from .slurm import ClusterError, SlurmCluster


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("action", choices=["start", "stop", "status", "env"])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("/tmp/test-cluster"))
    parser.add_argument("--nodes", type=int, default=2)
    arguments = parser.parse_args()
    nodes = tuple(f"node{number + 1}" for number in range(arguments.nodes))
    cluster = SlurmCluster(Layout(arguments.folder.absolute(), nodes))
    try:
        act(cluster, arguments.action)
    except ClusterError as error:
        sys.exit(str(error))


def act(cluster: SlurmCluster, action: str) -> None:
    """Do one action on the cluster."""
    if action == "start":
        if cluster.processes():
            sys.exit(f"a cluster runs in {cluster.layout.folder}; stop it first")
        shutil.rmtree(cluster.layout.folder, ignore_errors=True)
        cluster.start()
    if action == "stop":
        cluster.stop()
        shutil.rmtree(cluster.layout.folder, ignore_errors=True)
    if action == "status":
        print(f"{len(cluster.processes())} processes in {cluster.layout.folder}")
        print(cluster.ask("sinfo", "-N", "-o", "%8N %10P %10T %C %m %G"), end="")
    if action in ("start", "env"):
        print(f"export SLURM_CONF={cluster.layout.configuration}")


if __name__ == "__main__":
    main()
