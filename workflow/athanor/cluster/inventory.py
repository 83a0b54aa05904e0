"""What a Slurm cluster says it has: partitions and their nodes, its settings, and what the user may charge."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from athanor.cluster.commands import Ask

SINFO_FORMAT = "%P|%a|%l|%D|%c|%m|%G|%T"  # name, available, time limit, nodes, CPUs, MB, gres, state
_GPUS = re.compile(r"\bgpu(?::([^:,()]+))?:(\d+)")
_OUT = {"down", "drained", "draining", "drain", "fail", "failing", "error", "unknown", "inval", "future", "maint"}


class ClusterSilent(Exception):
    """Slurm is configured here, but gives no answer."""


@dataclass(frozen=True)
class NodeKind:
    """Nodes of a partition that are alike."""

    count: int
    cpus: int
    memory_mb: int  # in Slurm's MB, which are MiB
    gpus: int
    gpu_type: str
    state: str  # Slurm's word, such as `idle` or `down*`

    @property
    def usable(self) -> bool:
        """Whether a job may start there, now or after another has ended."""
        return not self.state.endswith("*") and self.state.rstrip("~#!%$@^-+") not in _OUT


@dataclass(frozen=True)
class Partition:
    """One partition."""

    name: str
    is_default: bool
    available: str  # `up`, or why not: down, drain, inact
    limit_minutes: int | None  # None: no limit
    kinds: tuple[NodeKind, ...]

    @property
    def nodes(self) -> int:
        """How many nodes it has, usable or not."""
        return sum(kind.count for kind in self.kinds)

    @property
    def usable_nodes(self) -> int:
        """How many of them may take a job."""
        return sum(kind.count for kind in self.kinds if kind.usable)

    @property
    def gpus_per_node(self) -> int:
        """GPUs of its best node."""
        return max((kind.gpus for kind in self.kinds), default=0)


@dataclass(frozen=True)
class Association:
    """An account that the user may charge, with the qualities of service it offers."""

    account: str
    partition: str  # empty: all of them
    qos: frozenset[str]


@dataclass(frozen=True)
class Inventory:
    """The cluster as it is now."""

    partitions: Mapping[str, Partition]
    settings: Mapping[str, str]  # of `scontrol show config`
    associations: tuple[Association, ...] | None  # None: the cluster keeps no accounts, or does not tell
    why_no_associations: str = ""

    @property
    def default_partition(self) -> Partition | None:
        """Where a job goes that names none."""
        return next((p for p in self.partitions.values() if p.is_default), None)

    def partition(self, name: str) -> Partition | None:
        """The partition called `name`; the default one where the name is empty."""
        return self.partitions.get(name) if name else self.default_partition

    @property
    def enforced(self) -> frozenset[str]:
        """What of accounting is enforced: associations, limits, qos."""
        words = set(self.settings.get("AccountingStorageEnforce", "").replace("(null)", "").lower().split(","))
        return frozenset({"associations", "limits", "qos"} if "all" in words else words - {"", "none"})


def take_inventory(ask: Ask, user: str) -> Inventory:
    """Ask the cluster what it has. Raises ClusterSilent."""
    nodes, config = ask(["sinfo", "-h", "-e", "-o", SINFO_FORMAT]), ask(["scontrol", "show", "config"])
    for answer in (nodes, config):
        if answer.code:
            raise ClusterSilent(answer.last_words)
    settings = parse_settings(config.out)
    partitions = parse_sinfo(nodes.out)
    if not settings.get("AccountingStorageType", "").endswith("slurmdbd"):
        return Inventory(partitions, settings, None, "it keeps no accounts")
    who = [f"user={user}", f"cluster={settings.get('ClusterName', '')}"]
    answer = ask(["sacctmgr", "-n", "-P", "show", "associations", *who, "format=account,partition,qos"])
    if answer.code:
        return Inventory(partitions, settings, None, f"sacctmgr says: {answer.last_words}")
    return Inventory(partitions, settings, parse_associations(answer.out))


def parse_sinfo(text: str) -> dict[str, Partition]:
    """Partitions by name from the lines of `sinfo -h -e -o SINFO_FORMAT`: one a partition and kind of node."""
    found: dict[str, Partition] = {}
    for line in text.splitlines():
        name, available, limit, *node = [word.strip() for word in line.split("|")]
        if len(node) == 5:
            plain = name.removesuffix("*")
            before = found.get(plain)
            kinds = (*(before.kinds if before else ()), _kind(*node))
            found[plain] = Partition(plain, name.endswith("*"), available, parse_limit(limit), kinds)
    return found


def _kind(count: str, cpus: str, memory: str, gres: str, state: str) -> NodeKind:
    gpus = _GPUS.findall(gres)
    types = sorted({kind for kind, _ in gpus if kind})
    return NodeKind(
        int(count), int(cpus.rstrip("+")), int(memory.rstrip("+")), sum(int(n) for _, n in gpus), "+".join(types), state
    )


def parse_limit(text: str) -> int | None:
    """Slurm's `infinite`, `30:00` (min:s), `4:00:00` or `2-00:00:00` in minutes, rounded up; None without a limit."""
    if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", text):
        return None
    days, dash, clock = text.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if dash:  # days-hours:minutes:seconds
        hours, minutes, seconds = [*parts, 0, 0][:3]
    else:  # minutes, minutes:seconds, or all three
        hours, minutes, seconds = parts if len(parts) == 3 else [0, *parts, 0][:3]
    return int(days or 0) * 1440 + hours * 60 + minutes + (seconds > 0)


def parse_settings(text: str) -> dict[str, str]:
    """The lines `Key = value` of `scontrol show config`."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def parse_associations(text: str) -> tuple[Association, ...]:
    """The lines `account|partition|qos,qos` of `sacctmgr -n -P show associations`."""
    rows = ([*line.split("|"), "", ""][:3] for line in text.splitlines() if line.strip())
    return tuple(Association(account, part, frozenset(qos.split(",")) - {""}) for account, part, qos in rows)
