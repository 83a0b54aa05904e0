"""benchmarks/faults.py in small: a hash chain over two nodes is struck three times and ends as if nothing had happened."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from .slurm import SlurmCluster

sys.path.append(str(Path(__file__).parents[2]))

from benchmarks.faulty.campaigns import Campaign
from benchmarks.faulty.workloads import Chain

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


class ShortChain(Chain):
    """Some seconds of work instead of forty."""

    steps = 200


FAULTS = ("driver-kill", "kill-rank", "sbatch-answer-lost")


def test_chain_that_is_struck_three_times_ends_as_an_undisturbed_one(slurm_cluster: SlurmCluster, tmp_path: Path) -> None:
    calm = ShortChain(tmp_path / "calm", slurm_cluster)
    calm.folder.mkdir()
    calm.lay_out()
    assert calm.start_driver().wait() == 0
    struck = ShortChain(tmp_path / "struck", slurm_cluster)
    struck.folder.mkdir()
    struck.lay_out()
    left = iter(FAULTS)
    campaign = Campaign(struck, random.Random(0), iter(FAULTS), lambda: next(left, None) is not None)
    ended = campaign.run(calm.results())
    assert ended.problems == []
    assert [record.kind for record in ended.records] == list(FAULTS)
    assert all(record.survived for record in ended.records)
