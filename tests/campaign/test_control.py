"""What a person does about a running campaign: cancel, retry, forgive a node; and what its state is in between."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from athanor.campaign.campaign import Campaign
from athanor.campaign.control import retry
from athanor.campaign.state import State, failures_of, state_of
from athanor.campaign.wiring import BAD_NODES
from snakemake_executor_plugin_submitit.journal import Action, Attempt, End, JobKind, JobRecord, Judgement, Outcome, replace
from snakemake_executor_plugin_submitit.nodes import BadNodes
from snakemake_executor_plugin_submitit.processes import ProcessName, name_of
from tests.campaign.conftest import Furnace

RunCli = Callable[..., tuple[int, str, str]]
FETCH = "fetch/prose"


@pytest.fixture
def campaign(furnace: Furnace) -> Campaign:
    return furnace.campaign()


@pytest.fixture
def attempt(furnace: Furnace, campaign: Campaign) -> Path:
    return furnace.begin(campaign, campaign.lifecycle[FETCH])


def test_cancel_ends_a_running_local_job(attempt: Path, run_cli: RunCli) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as job:
        replace(attempt, JobRecord(JobKind.LOCAL, str(job.pid), name_of(job.pid)))
        code, out, _ = run_cli("cancel", "fetch")
        assert code == 0 and out == f"{FETCH}: cancelled local job {job.pid}\n"
        assert job.wait(timeout=60) != 0


def test_cancel_names_the_machine_of_a_job_that_is_not_here(attempt: Path, run_cli: RunCli) -> None:
    replace(attempt, JobRecord(JobKind.LOCAL, "7", ProcessName("elsewhere", 7, "1@other/1")))
    assert run_cli("cancel", "--all")[1] == f"{FETCH}: local job 7 runs on elsewhere; cancel it there\n"


def test_cancel_leaves_ended_jobs_alone(attempt: Path, run_cli: RunCli) -> None:
    replace(attempt, JobRecord(JobKind.LOCAL, "7", ProcessName("elsewhere", 7, "1@other/1")))
    Attempt(attempt).finish(End(Outcome.FAILED))
    told = "none of them has a running job (one that snakemake was given overrides for is found by the same --set)\n"
    assert run_cli("cancel", "--all")[1] == told


@pytest.mark.parametrize("words", [(), ("fetch", "--all")])
def test_cancel_wants_to_know_what(campaign: Campaign, run_cli: RunCli, words: tuple[str, ...]) -> None:
    code, _, err = run_cli("cancel", *words)
    assert code == 2 and "--all" in err and all(word in err for word in words)


def test_retry_makes_what_was_named_with_the_campaigns_own_settings(furnace: Furnace) -> None:
    campaign = furnace.campaign("seed=7", "pretrain.lr=1e-3", name="mine")
    artifact = campaign.lifecycle[FETCH]
    command = retry(campaign, [artifact], roll_back=False)
    assert command[3:] == [
        str(campaign.store.manifest_path(artifact)),
        *("--config", "recipe=base", "site=laptop", "campaign=mine", "set=[seed=7,pretrain.lr=1e-3]"),
    ]


def test_retry_with_roll_back_says_so_to_the_next_attempt(furnace: Furnace, campaign: Campaign, attempt: Path) -> None:
    furnace.fail(attempt, {0: "loss went up"})
    retry(campaign, [campaign.lifecycle[FETCH]], roll_back=True)
    assert Attempt(attempt).judgement().action is Action.ROLL_BACK


def test_nodes_are_listed_and_forgiven(campaign: Campaign, run_cli: RunCli) -> None:
    nodes = BadNodes(campaign.store.root / BAD_NODES)
    assert run_cli("nodes")[1] == "no node is excluded\n"
    nodes.remember("node3", "GPU fault", "slurm job 12", hours=24)
    nodes.remember("node4", "node failed", "slurm job 13", hours=-1)
    nodes.remember("../node5", "GPU fault", "slurm job 13", hours=1)
    code, out, _ = run_cli("nodes")
    assert code == 0 and out.startswith("node3 ") and "GPU fault (slurm job 12)" in out
    assert "node4" not in out and "node5" not in out
    assert run_cli("nodes", "--forgive", "node3") == (0, "no node is excluded\n", "")
    code, _, err = run_cli("nodes", "--forgive", "node3")
    assert code == 1 and "node3 is not excluded" in err


@pytest.mark.parametrize(
    ("ended_ago", "action", "judged_ago", "state"),
    [
        (1, None, 0, State.QUEUED),  # its driver is about to judge
        (600, None, 0, State.FAILED),
        (600, Action.RESTART, 1, State.QUEUED),
        (600, Action.RESTART, 600, State.FAILED),  # its driver died before it started it again
        (1, Action.STOP, 0, State.FAILED),
    ],
)
def test_state_between_two_attempts(attempt: Path, ended_ago: float, action: Action, judged_ago: float, state: State) -> None:
    now = time.time()
    Attempt(attempt).finish(End(Outcome.FAILED, time=now - ended_ago))
    if action is not None:
        replace(attempt, Judgement("killed", action, time=now - judged_ago))
    assert state_of(attempt.parents[1]) is state


def test_failure_says_the_judged_cause_first(furnace: Furnace, attempt: Path) -> None:
    furnace.fail(attempt, {0: "OutOfMemoryError"})
    replace(attempt, Judgement("out of GPU memory", Action.ASK, "lower the micro-batch", "Tried to allocate", "node7"))
    first, second, *_ = failures_of(attempt.parents[1])
    assert first == "out of GPU memory on node7: Tried to allocate: lower the micro-batch"
    assert second == "OutOfMemoryError"


def test_commands_take_the_site_that_the_environment_names(furnace: Furnace, monkeypatch: pytest.MonkeyPatch) -> None:
    furnace.project.write("cluster", {"store": "elsewhere"}, "sites")
    monkeypatch.setenv("ATHANOR_SITE", "cluster")
    assert Campaign.open("base").site.name == "cluster"
    assert Campaign.open("base", "laptop").site.name == "laptop"
