"""A first site file for a cluster nobody has described yet: what Slurm says, what follows from it, and what is left to decide."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from athanor.cluster.commands import Ask
from athanor.cluster.inventory import Inventory, NodeKind, Partition

_PROJECT_VARIABLES = ("PROJECT", "PROJECT_DIR", "PROJECTDIR", "WORK", "WORKDIR", "CFS", "DATA", "SCRATCH")  # as sites call it
_WORDS_OF_YAML = {"yes", "no", "true", "false", "on", "off", "null", "y", "n"}
_PLENTY = 0.95  # of a node's memory: Slurm counts MiB, and a node keeps some for itself
_DEFAULT_CORES, _DEFAULT_GB, _DEFAULT_MINUTES, _TRAINING_MINUTES = 4, 16, 240, 1440
_SHORT_MINUTES = 120  # partitions with a limit below are for trying things out

_HEAD = """\
# Drafted from sinfo and scontrol of cluster {cluster}. Lines with DECIDE need a person; config/README.md has every key.
store: {store} # DECIDE: {why}
ranks_per_node: {ranks} # {ranks_why}
# DECIDE: a folder on the nodes' own disks for temporary files. Without it they use what TMPDIR says there, or /tmp.
# scratch: /local/$USER
# DECIDE: the fast network between nodes (`ip -br link` on a node). Without it gloo and NCCL choose.
# network_interface: ib0
# DECIDE: passwords and tokens that stages need (HF_TOKEN=…), in a file that only you can read.
# secrets: ~/.athanor/secrets
resources:
"""


def default_account(ask: Ask, user: str) -> str:
    """The account that the user's jobs are charged to, if Slurm keeps accounts; else empty."""
    answer = ask(["sacctmgr", "-n", "-P", "show", "user", user, "format=user,defaultaccount"])
    line = answer.out.strip().splitlines()[:1]
    return line[0].partition("|")[2].strip() if answer.code == 0 and line else ""


def project_space(environment: Mapping[str, str]) -> tuple[str, str]:
    """A store in the project space that the site's variables name, and why; else one beside the checkout."""
    for name in _PROJECT_VARIABLES:
        folder = environment.get(name, "")
        if folder.startswith("/") and os.access(folder, os.W_OK):
            return f"{folder.rstrip('/')}/athanor", f"${name} of this machine; project space that is not purged, never HOME"
    return "store", "beside the checkout, since no variable names a project space; write /project/GROUP/athanor, never HOME"


def draft(inventory: Inventory, account: str, store: tuple[str, str]) -> str:
    """The text of a site file. Raises ValueError when no partition can be used."""
    up = [p for p in inventory.partitions.values() if p.available == "up" and p.nodes]
    if not up:
        raise ValueError("no partition of the cluster is up; try again when sinfo shows one")
    training = choose(up, with_gpus=True) or choose(up, with_gpus=False)
    preparing = choose(up, with_gpus=False) or training
    assert training is not None and preparing is not None
    kind = usual_kind(training)
    ranks = kind.gpus or min(8, kind.cpus)
    ranks_why = f"a rank a GPU of partition {training.name}" if kind.gpus else f"no GPUs here: ranks share {kind.cpus} cores"
    place, why = store
    head = _HEAD.format(
        cluster=inventory.settings.get("ClusterName", "?"), store=_text(place), why=why, ranks=ranks, ranks_why=ranks_why
    )
    others = [f"# partition {p.name}: {describe(p)}" for p in up if p not in (training, preparing)]
    entries = _entry("default", preparing, account, _modest(preparing))
    entries += _entry("pretrain", training, account, _whole(kind, training))
    return head + "\n".join([*entries, *others]) + "\n"


def choose(partitions: Sequence[Partition], with_gpus: bool) -> Partition | None:
    """The partition to prepare data in, or to train in: not one for short trials if another is there, then the largest."""
    fitting = [p for p in partitions if bool(p.gpus_per_node) is with_gpus]

    def rank(partition: Partition) -> tuple[bool, bool, int]:
        is_short = partition.limit_minutes is not None and partition.limit_minutes < _SHORT_MINUTES
        return (not is_short, partition.is_default, partition.usable_nodes * max(1, partition.gpus_per_node))

    return max(fitting, key=rank, default=None)


def usual_kind(partition: Partition) -> NodeKind:
    """The kind that most of its nodes are of; of those with GPUs, if it has any."""
    kinds = [kind for kind in partition.kinds if bool(kind.gpus) is bool(partition.gpus_per_node)]
    return max(kinds, key=lambda kind: kind.count)


def describe(partition: Partition) -> str:
    """`12 nodes of 64 cores, 524 GB, 8 GPUs h100; at most 24h`."""
    kind, limit = usual_kind(partition), partition.limit_minutes
    gpus = f", {kind.gpus} GPUs {kind.gpu_type}".rstrip() if kind.gpus else ""
    allowed = f"at most {_minutes(limit)}" if limit is not None else "no time limit"
    return f"{partition.nodes} nodes of {kind.cpus} cores, {kind.memory_mb // 1000} GB{gpus}; {allowed}"


def write_draft(folder: Path, name: str, text: str) -> Path:
    """Write NAME.yaml in `folder`. Raises FileExistsError: a file is never overwritten."""
    path = folder / f"{name}.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
    return path


def _modest(partition: Partition) -> dict[str, str]:
    """A small share of a node, for the stages that prepare data."""
    kind = usual_kind(partition)
    return {
        "cpus_per_task": f"{min(_DEFAULT_CORES, kind.cpus)} # DECIDE: enough for the data stages",
        "memory": f"{min(_DEFAULT_GB, kind.memory_mb // 1000)}GB",
        "runtime": _minutes(min(_DEFAULT_MINUTES, partition.limit_minutes or _DEFAULT_MINUTES)),
    }


def _whole(kind: NodeKind, training: Partition) -> dict[str, str]:
    """Whole nodes, for training."""
    ranks = kind.gpus or min(8, kind.cpus)
    runtime = _minutes(min(_TRAINING_MINUTES, training.limit_minutes or _TRAINING_MINUTES))
    gpus = {"gpus_per_node": f"{kind.gpus} # {kind.gpu_type or 'gres gpu'}, by sinfo"} if kind.gpus else {}
    return {
        **gpus,
        "cpus_per_task": f"{kind.cpus // ranks} # {kind.cpus} cores, {ranks} ranks",
        "memory": f"{int(kind.memory_mb * _PLENTY) // 1000}GB # of {kind.memory_mb // 1000}",
        "runtime": f"{runtime} # of one job; it is requeued until its stage is done",
    }


def _entry(name: str, partition: Partition, account: str, asked: Mapping[str, str]) -> list[str]:
    charged = {"account": f"{_text(account)} # your default account, by sacctmgr"} if account else {}
    values = {"partition": f"{_text(partition.name)} # {describe(partition)}", **charged, **asked}
    unknown = [] if account else ["    # account: mygroup # DECIDE: sacctmgr names no account of yours"]
    return [f"  {name}:", *(f"    {key}: {value}" for key, value in values.items()), *unknown]


def _minutes(minutes: int) -> str:
    return f"{minutes}min" if minutes % 60 else f"{minutes // 60}h"


def _text(value: str) -> str:
    """`value` as YAML reads back as text."""
    plain = re.fullmatch(r"[A-Za-z/][\w./-]*", value) and value.lower() not in _WORDS_OF_YAML
    return value if plain else json.dumps(value)
