"""Every fault by its real effect: what Slurm says about jobs and nodes, and what becomes of the processes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from ..snakemake_executor_plugin_submitit.drivers import DEADLINE_SECONDS, wait_until
from . import processes
from .configuration import ClusterError
from .faults import (
    KINDS,
    AccountingDown,
    Cancel,
    ControllerKill,
    ControllerStop,
    Failing,
    FullDisk,
    KillRank,
    NodeDeath,
    Preempt,
    Requeue,
    Slow,
    Walltime,
    inflicted,
)
from .faults.table import markdown
from .fixtures import as_driver, run, shown, submit, temporary_cluster, wait_for_state
from .slurm import SlurmCluster

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

PROJECT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Doomed:
    """Jobs whose end Slurm takes half a minute or more to bring about: begun with the first test, looked at by the last."""

    cluster: SlurmCluster
    folder: Path
    on_dead_node: str
    preempted: str
    at_limit: str
    left: list[int]
    """Processes of the dead node after its death."""

    def said(self, name: str) -> list[str]:
        """Return what a job has said."""
        file = self.folder / name
        return file.read_text().split() if file.exists() else []


@pytest.fixture(scope="module")
def doomed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doomed]:
    """Jobs on a cluster of their own: on a node that dies, preempted, and at its time limit."""
    folder = tmp_path_factory.mktemp("doomed")
    # The second process has left everything by which it could be found, but its node.
    deserter = "setsid env -i sleep 600 </dev/null >/dev/null 2>&1 & "
    listen = "trap 'echo asked >> {0}' USR2; trap 'echo ended >> {0}; exit 1' TERM; "
    wait = f"{listen}echo started >> {{0}}; while :; do sleep 0.1; done"
    signal = "--signal=B:USR2@60"
    with temporary_cluster(nodes=("node1", "node2", "node3")) as cluster:
        jobs = [
            submit(cluster, f"{deserter} sleep 600", "--nodelist=node2"),
            submit(cluster, wait.format(folder / "preempted"), "--nodelist=node3", "--partition=preempt", signal),
            submit(cluster, wait.format(folder / "at-limit"), "--nodelist=node1", signal),
        ]
        doomed = Doomed(cluster, folder, *jobs, left=[])
        wait_until(lambda: doomed.said("preempted") and doomed.said("at-limit"), "the start of the jobs")
        found = partial(processes.of_node, cluster.layout, "node2")
        wait_until(lambda: len(found()) >= 5, "slurmd, slurmstepd, the script and both its sleeps")
        for fault in (Walltime(cluster, jobs[2]), Preempt(cluster, jobs[1], seconds=1.0), NodeDeath(cluster, "node2")):
            fault.inflict()
        doomed.left.extend(found())
        yield doomed


def test_node_death_takes_every_process_of_the_node_at_once_and_no_other(doomed: Doomed) -> None:
    assert doomed.left == [] and processes.of_node(doomed.cluster.layout, "node1")


def test_preemption_begins_with_the_signal_of_the_job(doomed: Doomed) -> None:
    wait_until(lambda: "asked" in doomed.said("preempted"), "the signal to the preempted job")


def test_preempt_refuses_a_job_that_nothing_preempts(cluster: SlurmCluster) -> None:
    job = run(cluster)
    with pytest.raises(ClusterError, match="in partition main"):
        Preempt(cluster, job).inflict()


def test_requeued_job_waits_for_another_start(cluster: SlurmCluster) -> None:
    job = run(cluster)
    Requeue(cluster, job).inflict()
    wait_until(lambda: shown(cluster, job, "Restarts") == "1", "the requeue")
    wait_for_state(cluster, job, "PENDING", "RUNNING")


def test_cancelled_job_is_cancelled(cluster: SlurmCluster) -> None:
    job = run(cluster)
    Cancel(cluster, job).inflict()
    wait_for_state(cluster, job, "CANCELLED")
    with pytest.raises(ClusterError, match="is CANCELLED, not RUNNING or PENDING"):
        Cancel(cluster, job).inflict()


def test_controller_that_was_killed_is_back_with_its_jobs(cluster: SlurmCluster) -> None:
    job = run(cluster)
    save_state(cluster)
    with inflicted(ControllerKill(cluster)):
        assert cluster.daemon("slurmctld") is None
        assert " is DOWN" in cluster.ask("scontrol", "ping")
        assert job in {process.environment.get("SLURM_JOB_ID") for process in processes.all_processes()}
    assert cluster.job_states()[job] == "RUNNING"


def save_state(cluster: SlurmCluster) -> None:
    """Wait until slurmctld has written what it knows now: every 5 s at most, and only after another event of a job."""
    event = submit(cluster, "true", "--hold", f"--job-name=event-{time.monotonic_ns()}")
    name = shown(cluster, event, "JobName").encode()
    wait_until(lambda: name in (cluster.layout.folder / "state" / "job_state").read_bytes(), "the saving of all jobs")


def test_controller_that_forgets_gives_a_job_id_a_second_time(cluster: SlurmCluster) -> None:
    while not (cluster.layout.folder / "state" / "job_state.old").exists():
        save_state(cluster)
    forgotten = submit(cluster, "true", "--hold", "--job-name=forgotten")
    with inflicted(ControllerKill(cluster, forget=True)):
        pass
    assert forgotten not in cluster.job_states()
    ids = iter(lambda: submit(cluster, "true", "--hold", "--job-name=successor"), forgotten)  # until the id comes again
    assert all(int(other) < int(forgotten) for other in ids)
    assert shown(cluster, forgotten, "JobName") == "successor"


def test_controller_that_was_stopped_has_saved_even_the_last_job(cluster: SlurmCluster) -> None:
    job = submit(cluster, "true", "--hold")
    with inflicted(ControllerStop(cluster)):
        assert " is DOWN" in cluster.ask("scontrol", "ping")
    assert cluster.job_states()[job] == "PENDING"


def test_controller_that_hangs_accepts_and_does_not_answer(cluster: SlurmCluster) -> None:
    with inflicted(ControllerStop(cluster, hung=True)):
        assert cluster.daemon("slurmctld") is not None
        with pytest.raises(subprocess.TimeoutExpired):
            as_driver(cluster, "squeue", timeout=2.0)
    assert as_driver(cluster, "squeue").returncode == 0


def test_accounting_that_was_down_learns_what_happened_meanwhile(accounting_cluster: SlurmCluster) -> None:
    question = ("sacct", "-X", "-n", "-P", "-o", "JobID,State")
    with inflicted(AccountingDown(accounting_cluster)):
        assert as_driver(accounting_cluster, *question).returncode != 0
        job = submit(accounting_cluster, "true")
        wait_for_state(accounting_cluster, job, "COMPLETED")
    wait_until(lambda: f"{job}|COMPLETED" in as_driver(accounting_cluster, *question).stdout, "the record of the job")


def test_cluster_without_accounting_says_so(cluster: SlurmCluster) -> None:
    with pytest.raises(ClusterError, match="--accounting"):
        AccountingDown(cluster).inflict()


def test_slow_command_is_slow_until_repaired(cluster: SlurmCluster) -> None:
    with inflicted(Slow(cluster, "squeue", 1.0)):
        before = time.monotonic()
        assert as_driver(cluster, "squeue").returncode == 0
        assert time.monotonic() - before >= 1.0
        with pytest.raises(subprocess.TimeoutExpired):
            as_driver(cluster, "squeue", timeout=0.2)  # the caller has its word at once, though the sleep goes on
        assert as_driver(cluster, "sinfo").returncode == 0
    assert as_driver(cluster, "squeue", timeout=DEADLINE_SECONDS).stdout == cluster.ask("squeue")


def test_failing_command_fails_for_drivers_only(cluster: SlurmCluster) -> None:
    with inflicted(Failing(cluster, "squeue")):
        answer = as_driver(cluster, "squeue")
        assert answer.returncode == 1 and "Unable to contact slurm controller" in answer.stderr and not answer.stdout
        assert cluster.job_states() is not None
    assert as_driver(cluster, "squeue").returncode == 0


def test_sbatch_whose_answer_is_lost_has_submitted(cluster: SlurmCluster) -> None:
    with inflicted(Failing(cluster, "sbatch", answer_lost=True)):
        answer = as_driver(cluster, "sbatch", "--hold", "--output=/dev/null", "--job-name=lost", "--wrap=true")
    assert answer.returncode == 1 and not answer.stdout
    assert cluster.order("squeue", "-h", "--name=lost", "-o", "%T").split() == ["PENDING"]


def test_job_that_exceeds_its_memory_is_killed_by_slurm(cluster: SlurmCluster, tmp_path: Path) -> None:
    hog = f"{sys.executable} -c 'import time; held = bytes(range(256)) * (1 << 20); time.sleep(600)'"
    job = submit(cluster, hog, "--mem=50", f"--output={tmp_path}/log")
    wait_for_state(cluster, job, "FAILED", "OUT_OF_MEMORY")
    assert "Exceeded job memory limit" in (tmp_path / "log").read_text()


def test_full_disk_refuses_jobs_and_login_node_until_repaired(cluster: SlurmCluster, tmp_path: Path) -> None:
    disk = FullDisk(cluster, tmp_path / "disk", megabytes=1)
    disk.inflict()
    log, file = tmp_path / "log", disk.path / "file"
    job = submit(cluster, f"dd if=/dev/zero of={file} bs=64k count=64", f"--output={log}")
    wait_for_state(cluster, job, "FAILED")
    assert "No space left on device" in log.read_text() and file.stat().st_size == 1 << 20
    with pytest.raises(OSError, match="No space left"):
        (disk.path / "other").write_bytes(b"x")
    disk.repair()
    wait_for_state(cluster, submit(cluster, f"dd if=/dev/zero of={file} bs=64k count=64"), "COMPLETED")
    assert file.stat().st_size == 4 << 20
    assert "4194304 bytes were written" in disk.inflict()
    with pytest.raises(OSError, match="No space left"):
        (disk.path / "other").write_bytes(b"x")


def test_full_disk_hides_nothing(cluster: SlurmCluster, tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(ClusterError, match="not an empty folder"):
        FullDisk(cluster, tmp_path).inflict()


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        (NodeDeath, ("node9",), r"no node node9 in .*; it has node1, node2"),
        (Requeue, ("999",), r"no job 999 in .*; Slurm knows "),
        (KillRank, ("999", 0), r"no job 999 in .*; Slurm knows "),
        (Slow, ("squeu", 1.0), r"no command squeu .*; choose sbatch, squeue"),
    ],
)
def test_fault_of_what_is_not_there_names_it_and_what_there_is(
    cluster: SlurmCluster, kind: type, values: tuple[object, ...], words: str
) -> None:
    with pytest.raises(ClusterError, match=words) as error:
        kind(cluster, *values).inflict()
    assert len(str(error.value).splitlines()) == 1


def test_documentation_has_the_table() -> None:
    assert markdown(KINDS.values()) in (PROJECT / "docs" / "cluster.md").read_text(encoding="utf-8")


def test_job_at_its_limit_is_asked_before_it_is_ended(doomed: Doomed) -> None:
    wait_for_state(doomed.cluster, doomed.at_limit, "TIMEOUT")
    wait_until(lambda: "ended" in doomed.said("at-limit"), "the end of the script")
    assert doomed.said("at-limit") == ["started", "asked", "ended"]


def test_preempted_job_waits_until_the_intruder_is_gone(doomed: Doomed) -> None:
    wait_until(lambda: shown(doomed.cluster, doomed.preempted, "Restarts") == "1", "the requeue of the preempted job")
    wait_until(lambda: doomed.said("preempted").count("started") == 2, "its next start")
    (intruder,) = doomed.cluster.order("squeue", "-h", "--states=all", "--name=intruder", "-o", "%T").split()
    assert intruder == "COMPLETED"


def test_slurm_notices_the_dead_node_and_its_job_waits_until_the_node_is_back(doomed: Doomed) -> None:
    cluster, job = doomed.cluster, doomed.on_dead_node
    wait_until(lambda: cluster.node_states("node2") == {"down*"}, "node2 down")
    wait_until(lambda: shown(cluster, job, "Restarts") == "1", "the requeue of the job")
    assert cluster.job_states()[job] in ("NODE_FAIL", "PENDING")
    with pytest.raises(ClusterError, match="dead already"):
        NodeDeath(cluster, "node2").inflict()
    NodeDeath(cluster, "node2").repair()
    assert cluster.node_states("node2") & {"idle", "mixed"} and cluster.daemon("slurmd.node2") is not None
    wait_for_state(cluster, job, "RUNNING")
