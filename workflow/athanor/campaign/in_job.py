"""Restarts inside a job by NVRx: one `ft_launcher` a node starts that node's ranks, and all ranks again when one fails.

A job that keeps its nodes saves the time in the queue. The executor sees one start of one task a node; what NVRx gives up
ends the job, and is judged like any other end. NVRx's own hang detection stays off: the executor's knows the progress.
"""

import importlib.util
import sys

_PACKAGE = "nvidia_resiliency_ext"
_PIN = "nvidia-resiliency-ext==0.4.1"
_TERM_SECONDS = 3600  # ranks that were asked to stop save first; the executor ends them when its own grace is over


def in_job_launcher(nodes: int, ranks: int, restarts: int) -> str:
    """Return the words between the interpreter and the program's own; the shell fills in where the nodes meet."""
    return (
        f"-m {_PACKAGE}.fault_tolerance.launcher --nnodes {nodes} --nproc-per-node {ranks // nodes} --max-restarts {restarts} "
        f"--rdzv-backend c10d --rdzv-endpoint $MASTER_ADDR:$MASTER_PORT --term-timeout {_TERM_SECONDS}"
    )


def problem_with(nodes: int, ranks: int, prefix: str, python: str) -> str:
    """Say what is in the way of it; empty when nothing is. Environments other than the driver's are not looked into."""
    if ranks % nodes:
        return f"{ranks} ranks do not spread evenly over {nodes} nodes; change ranks_per_node, or in_job_restarts to 0"
    if prefix or python != sys.executable or importlib.util.find_spec(_PACKAGE):
        return ""
    return f"{python} has no {_PACKAGE}; {python} -m pip install {_PIN}, or set in_job_restarts to 0"
