"""Ranks that make the others wait, from what training last left of each rank's own seconds a step."""

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import median

RANKS = "ranks.json"  # training/monitor.py
SLOW = 1.15  # times the median rank's seconds: less is noise
NAMED = 4  # nodes that a line names


@dataclass(frozen=True)
class Straggler:
    """A node with slow ranks; `seconds` are the slowest one's of a step, `usual` the median rank's."""

    node: str
    ranks: tuple[int, ...]
    seconds: float
    usual: float


def stragglers(folder: Path) -> list[Straggler]:
    """Of the artifact in `folder`, the slowest node first; none where training has told nothing (yet)."""
    try:
        rows = json.loads((folder / RANKS).read_text())["seconds"]
    except (FileNotFoundError, ValueError):  # a power cut leaves an empty one
        return []
    seconds = {row["rank"]: row["compute"] + row["data"] for row in rows}
    usual = median(seconds.values())
    slow: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        if seconds[row["rank"]] > SLOW * usual:
            slow[row["node"]].append(row["rank"])
    found = [Straggler(node, tuple(ranks), max(seconds[rank] for rank in ranks), usual) for node, ranks in slow.items()]
    return sorted(found, key=lambda straggler: -straggler.seconds)


def in_words(name: str, found: list[Straggler]) -> str:
    """One line for the artifact `name`."""
    nodes = [
        f"rank{'s' if len(s.ranks) > 1 else ''} {', '.join(map(str, s.ranks))} on {s.node} {s.seconds:.3g} s a step"
        for s in found[:NAMED]
    ]
    more = f", and {len(found) - NAMED} more nodes" if len(found) > NAMED else ""
    return f"slow in {name}: {'; '.join(nodes)}{more} (median rank {found[0].usual:.3g} s)"
