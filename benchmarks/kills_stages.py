"""Stages of post-training that are killed at fifty random instants, against a campaign that nothing happened to.

Whole campaigns of a small recipe run under `snakemake`, from a finished pretraining on. When a stage that is still to be
struck runs, SIGKILL takes all its ranks at an instant drawn at random within the time that it needs undisturbed. The
driver starts the stage again, or ends where it has done so too often; then it is started again itself, and so on to the end
of the campaign. Then the next campaign begins, until every stage has had its share of the kills.

Aims: every artifact of every campaign has the result of the undisturbed one, by the hash of every file; `athanor verify
--deep` finds nothing; no finished artifact was made twice.

    python benchmarks/kills_stages.py [--quick] [--json FILE] [--seed N] [--stages sft,rollouts]
"""

import argparse
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.lifecycle.post_training import with_reward_model
from tests.lifecycle.project import Project

STAGES = ("sft", "rollouts", "offline", "preference", "trajectories", "reward_pretrain", "reward_tune", "score")
KILLS, QUICK_KILLS = 50, 8
POLL_SECONDS = 0.02
SOONER = 0.8  # a stage that had ended is struck earlier next time: other work makes a machine faster and slower
STARTS = 60  # of one campaign: more means that it does not come forward


@dataclass
class Row:
    """What happened to one stage."""

    stage: str
    kills: int = 0
    artifacts: int = 0  # compared, over all campaigns
    identical: int = 0


def main() -> int:
    """Measure, print the table and the aims; exit 1 where one is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_KILLS} kills instead of {KILLS}")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--stages", default=",".join(STAGES), help="which are struck (default: %(default)s)")
    arguments = parser.parse_args()
    stages = tuple(arguments.stages.split(","))
    share = -(-(QUICK_KILLS if arguments.quick else KILLS) // len(stages))
    rows, chance = {stage: Row(stage) for stage in stages}, random.Random(arguments.seed)
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        pretrained = Project.make(Path(scratch) / "pretrained")
        _finish(pretrained)
        undisturbed = with_reward_model(pretrained.copy(Path(scratch) / "undisturbed"))
        _finish(undisturbed)
        seconds = {stage: _seconds(undisturbed, stage) for stage in stages}
        campaign = 0
        while any(row.kills < share for row in rows.values()):
            campaign += 1
            project = with_reward_model(pretrained.copy(Path(scratch) / f"struck-{campaign}"))
            _strike(project, rows, share, seconds, chance)
            wrong += _compare(project, undisturbed, rows, pretrained)
            told = ", ".join(f"{row.stage} {row.kills}" for row in rows.values())
            print(f"  campaign {campaign}: kills so far: {told}; wrong: {len(wrong)}", file=sys.stderr, flush=True)
            shutil.rmtree(project.folder)
    missed = report(list(rows.values()), campaign, wrong)
    if arguments.json:
        machine = {"cpu": platform.processor(), "cores": os.cpu_count(), "python": platform.python_version()}
        found = {"machine": machine, "campaigns": campaign, "wrong": wrong, "rows": [asdict(row) for row in rows.values()]}
        arguments.json.write_text(json.dumps(found, indent=1))
    return int(missed)


def _finish(project: Project) -> None:
    done = project.snakemake()
    if done.returncode:
        sys.exit(f"an undisturbed campaign failed:\n{done.stderr}")


def _seconds(project: Project, stage: str) -> float:
    """The longest that an undisturbed attempt took, its imports among them."""
    manifests = [json.loads(path.read_text()) for path in project.store.glob(f"{stage}/*/manifest.json")]
    return max(manifest["provenance"]["seconds"] for manifest in manifests)


def _strike(project: Project, rows: dict[str, Row], share: int, seconds: dict[str, float], chance: random.Random) -> None:
    """One campaign to its end, killing what is still to be killed."""
    for _ in range(STARTS):
        driver, struck = project.start_snakemake(), 0
        try:
            while _strike_once(project, driver, rows, share, seconds, chance):
                struck += 1
        finally:
            if driver.poll() is None:
                driver.terminate()
                driver.wait()
        if driver.returncode == 0:
            return
        if not struck:
            said = (project.folder / "driver.log").read_text()[-4000:]
            sys.exit(f"the driver ended with {driver.returncode} unstruck:\n{said}")
    sys.exit(f"a campaign did not end in {STARTS} starts")


def _strike_once(
    project: Project,
    driver: "subprocess.Popen[bytes]",
    rows: dict[str, Row],
    share: int,
    seconds: dict[str, float],
    chance: random.Random,
) -> bool:
    """Wait for a stage that is still to be struck, and kill it once; or for the driver's end. Whether anything was killed."""
    while driver.poll() is None:
        wanted = [row for row in rows.values() if row.kills < share]
        for row in chance.sample(wanted, len(wanted)):
            if not (ranks := project.ranks(row.stage)):
                continue
            if _outlives(ranks, chance.uniform(0, seconds[row.stage])) and project.kill_ranks(row.stage):
                row.kills += 1
                return True
            seconds[row.stage] *= SOONER
        time.sleep(POLL_SECONDS)
    return False


def _outlives(ranks: list[int], seconds: float) -> bool:
    """Whether they still run in so many seconds; says so as soon as they do not."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(map(psutil.pid_exists, ranks)):
            return False
        time.sleep(POLL_SECONDS)
    return True


def _compare(project: Project, undisturbed: Project, rows: dict[str, Row], pretrained: Project) -> list[str]:
    """Count what has the undisturbed result; returns what has not, what is damaged, and what was made twice."""
    wrong = []
    for path in sorted(undisturbed.store.glob("*/*/manifest.json")):
        stage, name = path.parts[-3], path.parent.relative_to(undisturbed.store).as_posix()
        same = _result(project.store / name / "manifest.json") == _result(path)
        if stage in rows:
            rows[stage].artifacts += 1
            rows[stage].identical += same
        if not same:
            wrong.append(f"{name}: another result")
    before = pretrained.computed()
    wrong += [f"{name}: made {n} times" for name, n in project.computed().items() if n > max(1, before.get(name, 0))]
    verified = project.athanor("verify", "--deep")
    if verified.returncode:
        wrong.append(f"verify --deep: {verified.stdout.strip()[-400:]}")
    return wrong


def _result(manifest: Path) -> Any:
    return json.loads(manifest.read_text())["result"] if manifest.is_file() else None


def report(rows: list[Row], campaigns: int, wrong: list[str]) -> bool:
    """The table on stdout; whether an aim is missed."""
    print("| stage | kills | artifacts compared | with the undisturbed result |")
    print("|---|---:|---:|---:|")
    for row in rows:
        print(f"| {row.stage} | {row.kills} | {row.artifacts} | {row.identical} |")
    kills = sum(row.kills for row in rows)
    print(f"{kills} kills in {campaigns} campaigns; results that differ, damage, work done twice: {len(wrong)} (aim 0)")
    for line in wrong:
        print(f"  {line}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
