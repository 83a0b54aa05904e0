"""How long the login node waits: `snakemake -n` of recipe tiny, and of plans with 100 and 1,000 stages.

The peer is a bare Snakefile with the same number of jobs in the same shape (one split into many, gathered by one),
run by the same Snakemake in the same minute. Aim: every plan within AIM_RATIO of bare, which is about 2 s for tiny.

    python benchmarks/startup.py [--quick] [--json FILE] [--seed N]
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

CHECKOUT = Path(__file__).resolve().parents[1]
AIM_RATIO = 2.0  # a plan's time over bare Snakemake's with as many jobs; bare takes 0.75 to 1.0 s on a quiet machine
BARE = """
N = {jobs}
rule all:
    input: "all.txt"
rule split:
    output: "split.txt"
    shell: "touch {{output}}"
rule work:
    input: "split.txt"
    output: "part/{{i}}.txt"
    shell: "touch {{output}}"
rule gather:
    input: expand("part/{{i}}.txt", i=range(N - 2))
    output: "all.txt"
    shell: "touch {{output}}"
"""


@dataclass(frozen=True)
class Row:
    """Median seconds of one plan, ours and bare."""

    plan: str
    stages: int
    ours: float
    bare: float

    @property
    def ratio(self) -> float:
        """Ours over bare."""
        return self.ours / self.bare


def main() -> int:
    """Measure, print the table and the aims; exit 1 where one is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three runs a row instead of seven, no 1,000 stages")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--seed", type=int, default=0, help="kept for symmetry: nothing here is random")
    arguments = parser.parse_args()
    runs, sizes = (3, [100]) if arguments.quick else (7, [100, 1000])
    with tempfile.TemporaryDirectory() as scratch:
        rows = [measure("recipe tiny", CHECKOUT, Path(scratch), runs)]
        rows += [measure(f"{n} stages", sized_project(Path(scratch) / str(n), n), Path(scratch), runs) for n in sizes]
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"medians of {runs}"
    )
    print(f"{'plan':14} {'stages':>7} {'ours s':>8} {'bare s':>8} {'ratio':>6}")
    for row in rows:
        print(f"{row.plan:14} {row.stages:7} {row.ours:8.2f} {row.bare:8.2f} {row.ratio:6.2f}")
    missed = [f"{row.plan} {row.ratio:.2f} × bare > {AIM_RATIO}" for row in rows if row.ratio > AIM_RATIO]
    print(f"aim: every plan ≤ {AIM_RATIO} × bare: {'; '.join(missed) or 'met'}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": [asdict(row) for row in rows], "missed": missed}, indent=1))
    return 1 if missed else 0


def measure(plan: str, project: Path, scratch: Path, runs: int) -> Row:
    """Time a dry run of `project` and of bare Snakemake with as many jobs, in turns."""
    environment = {**os.environ, "ATHANOR_PROJECT": str(project)}
    fresh = f"store={scratch / 'none'}"  # nothing is done there, so that every stage is planned
    site = project / "config" / "sites" / "fresh.yaml"
    remove = not site.exists()
    site.write_text(yaml.safe_dump(dict([fresh.split("=", 1)])))
    try:
        command = [sys.executable, "-m", "snakemake", "-n", "--config", "site=fresh"]
        stages = planned(command, project, environment)
        bare = scratch / f"bare-{stages}"
        bare.mkdir(exist_ok=True)
        (bare / "Snakefile").write_text(BARE.format(jobs=stages))
        bare_command = [sys.executable, "-m", "snakemake", "-n", "--quiet", "--cores", "1", "--scheduler", "greedy"]
        pairs = [(seconds(command, project, environment), seconds(bare_command, bare, dict(os.environ))) for _ in range(runs)]
    finally:
        if remove:
            site.unlink()
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    return Row(plan, stages, ours, theirs)


def planned(command: list[str], folder: Path, environment: dict[str, str]) -> int:
    """How many stages the dry run would make."""
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    line = next(line for line in done.stderr.splitlines() if line.startswith("campaign "))
    return int(line.split(": ")[1].split()[0])


def seconds(command: list[str], folder: Path, environment: dict[str, str]) -> float:
    """Wall time of one run."""
    began = time.perf_counter()
    subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True)
    return time.perf_counter() - began


def sized_project(folder: Path, stages: int) -> Path:
    """A project whose recipe has about `stages` stages: one local corpus in many shards."""
    (folder / "config" / "recipes").mkdir(parents=True)
    (folder / "config" / "sites").mkdir()
    for name in ("Snakefile", "rules", "profiles", "envs"):
        (folder / name).symlink_to(CHECKOUT / name)
    (folder / "corpus.txt").write_text("text")
    source = {"kind": "local", "path": "corpus.txt", "licence": "CC0-1.0", "domain": "text", "format": "text"}
    recipe = {
        "data": {"licences_allowed": ["CC0-1.0"], "sources": {"text": {**source, "sha256": "0" * 64, "shards": stages - 11}}},
        "pretrain": {"token_budget": "1M", "mixture": {"text": 1}},
        "evaluate": {"suites": ["held_out_perplexity"]},
    }
    (folder / "config" / "recipes" / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    return folder


if __name__ == "__main__":
    sys.exit(main())
