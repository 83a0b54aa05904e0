"""What a node reports and what it means, and the small jobs that go and ask: always cancelled, their files always removed."""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from athanor.cluster import probe
from athanor.cluster.commands import Answer
from athanor.cluster.findings import Level, has_error
from athanor.cluster.node_findings import judge_clock, judge_report
from athanor.cluster.node_report import (
    ARRIVAL,
    CLOCK,
    QUESTION,
    REPORT,
    Interpreter,
    NodeReport,
    Question,
    examine,
    main,
    read_report,
    start_interpreter,
)
from athanor.cluster.probe import look_inside, small
from athanor.recipe.site import Site

from .recorded import Recorded, needs_srun, stage_job

SITE = Site(name="s")
QUESTION_HERE = Question(
    workdir=str(Path.cwd()), prefix="", python=sys.executable, stages=[], packages=[], on_gpu=False, scratch="", secrets=""
)
GOOD = NodeReport(
    host="node7", has_workdir=True, gpus=["NVIDIA H100 80GB HBM3, 570.124.06"], nvidia_smi="", stacks="py-spy", scratch="/local",
    scratch_free=10**12, scratch_trouble="", interfaces=["lo", "ib0"], secrets_trouble="",
    interpreter=Interpreter(versions={"torch": "2.13.0"}, gpus=1),
)  # fmt: skip
GPU_JOB = stage_job(slurm_partition="gpu", gpus_per_node=8, tasks=8, runtime=1440, mem_mb=900_000)


def test_node_where_all_is_well_has_only_fine_findings() -> None:
    site = replace(SITE, scratch="/local", network_interface="ib0")
    found = judge_report(GPU_JOB, GOOD, site)
    assert {f.level for f in found} == {Level.OK}
    assert any("1 × NVIDIA H100 80GB HBM3, driver 570.124.06" in f.found for f in found)


FAULTS = {
    "no checkout": ({"has_workdir": False}, Level.ERROR, "keep the checkout on a shared file system"),
    "no nvidia-smi": ({"gpus": [], "nvidia_smi": "nvidia-smi is not installed"}, Level.WARNING, "choose another partition"),
    "no ptrace": ({"stacks": "ptrace is not permitted (ptrace_scope 3)"}, Level.WARNING, "ask the administrators for"),
    "no py-spy": ({"stacks": "py-spy is not installed"}, Level.WARNING, "make install brings it"),
    "scratch": ({"scratch_trouble": "No space left on device"}, Level.ERROR, "set scratch to a folder"),
    "small scratch": ({"scratch_free": 10**9}, Level.WARNING, "set scratch to a folder"),
    "interface": ({"interfaces": ["lo", "eth0"]}, Level.ERROR, "set network_interface to one of lo, eth0"),
    "secrets": ({"secrets_trouble": "secrets='x' on node7: there is no such file"}, Level.ERROR, "that nodes share"),
    "interpreter": ({"interpreter": Interpreter("exit code 127: not found")}, Level.ERROR, "mend resources.pretrain.python"),
    "import": ({"interpreter": Interpreter(wrong={"pretrain": "ImportError: x"})}, Level.ERROR, "make install"),
    "version": ({"interpreter": Interpreter(versions={"torch": "2.11.0"})}, Level.ERROR, "make install"),
    "no sandbox": (
        {"interpreter": Interpreter(versions={"torch": "2.13.0"}, gpus=1, walls="bubblewrap is not installed")},
        Level.WARNING, "are left out there",
    ),
    "torch sees none": ({"interpreter": Interpreter(versions={"torch": "2.13.0"}, gpus=0)}, Level.ERROR, "--nv"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_of_a_node_is_one_finding_with_its_way_out(fault: str) -> None:
    change, level, advice = FAULTS[fault]
    found = judge_report(GPU_JOB, replace(GOOD, **change), replace(SITE, network_interface="ib0"))
    (bad,) = [f for f in found if f.level is not Level.OK]
    assert (bad.level, advice in bad.advice, "node7" in bad.found) == (level, True, True)


@pytest.mark.parametrize(
    ("least", "most", "level", "words"),
    [
        (-0.3, 0.6, Level.OK, "no difference"),
        (-40.0, 30.0, Level.OK, "no difference"),
        (7.0, 8.0, Level.WARNING, "7 s ahead of"),
        (-9.0, -8.0, Level.WARNING, "8 s behind"),
        (299.0, 300.0, Level.ERROR, "299 s ahead of"),
        (-3700.0, -3600.0, Level.ERROR, "3600 s behind"),
    ],
)
def test_clock_of_a_node(least: float, most: float, level: Level, words: str) -> None:
    found = judge_clock("node7", least, most)
    assert (found.level, words in found.found) == (level, True)


def test_interpreter_tells_versions_and_what_it_cannot_import() -> None:
    found = start_interpreter(replace(QUESTION_HERE, stages=["no_such_stage"], packages=["pytest", "no-such-package"]))
    assert found.trouble == ""
    assert list(found.wrong) == ["no_such_stage"] and "ModuleNotFoundError" in found.wrong["no_such_stage"]
    assert found.versions == {"pytest": pytest.__version__, "no-such-package": "nothing"}


def test_interpreter_tells_why_there_is_no_sandbox_where_a_stage_wants_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no bubblewrap there
    assert "bubblewrap is not installed" in start_interpreter(replace(QUESTION_HERE, stages=["problems"])).walls
    assert start_interpreter(replace(QUESTION_HERE, stages=["labels"])).walls == ""


def test_interpreter_is_started_behind_the_launch_prefix() -> None:
    assert start_interpreter(replace(QUESTION_HERE, prefix="env A=1")).trouble == ""
    assert "no-such-launcher" in start_interpreter(replace(QUESTION_HERE, prefix="no-such-launcher")).trouble
    assert start_interpreter(replace(QUESTION_HERE, python="/no/python")).trouble.startswith("exit code 127")


def test_this_machine_as_a_node_sees_its_scratch_folder_and_refuses_open_secrets(tmp_path: Path) -> None:
    (tmp_path / "secrets").write_text("A=hush\n")
    (tmp_path / "secrets").chmod(0o644)
    scratch = tmp_path / "local" / "$USER"
    report = examine(replace(QUESTION_HERE, scratch=str(scratch), secrets=str(tmp_path / "secrets"), on_gpu=True))
    assert (report.has_workdir, report.scratch_trouble, Path(report.scratch).is_dir()) == (True, "", True)
    assert Path(report.scratch).parent == scratch.parent and report.scratch_free > 0
    assert "chmod 600" in report.secrets_trouble and "hush" not in report.secrets_trouble
    assert "lo" in report.interfaces
    assert bool(report.gpus) is not bool(report.nvidia_smi)


def test_report_reads_back_as_it_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / QUESTION).write_text(json.dumps(asdict(QUESTION_HERE)))
    (tmp_path / CLOCK).write_text("12.5")
    monkeypatch.setattr(sys, "argv", ["node_report", str(tmp_path)])
    main()
    assert json.loads((tmp_path / ARRIVAL).read_text())["login_time"] == 12.5
    assert read_report(tmp_path / REPORT).has_workdir is True


def test_small_job_goes_where_the_stage_goes_and_asks_for_little() -> None:
    cut = small(GPU_JOB).resources
    assert cut == {
        **GPU_JOB.resources, "nodes": 1, "tasks": 1, "cpus_per_task": 1, "mem_mb": 4000, "runtime": 10, "gpus_per_node": 1,
    }  # fmt: skip
    assert "gpus_per_node" not in small(stage_job(mem_mb=500, runtime=5)).resources
    assert small(stage_job(mem_mb=500, runtime=5)).resources["mem_mb"] == 500


class Cluster(Recorded):
    """Takes small jobs; `run` is what one does in its folder, and `state` what squeue says of it."""

    def __init__(self, state: str = "RUNNING|None", exit_code: str = "1:0") -> None:
        self.state = state
        self.folders: list[Path] = []
        shown = Answer(0, f"JobId=5 JobState={state.partition('|')[0]} ExitCode={exit_code} BatchHost=node7")
        done = Answer(0)
        answers = {"sbatch": self.submit, "squeue -h --states": self.queue, "squeue": done, "scancel": done, "scontrol": shown}
        super().__init__(answers)

    def submit(self, command: Sequence[str]) -> Answer:
        """Run the job at once."""
        folder = Path(command[-1]).parent
        self.folders.append(folder)
        self.run(folder)
        return Answer(0, f"{4 + len(self.folders)}\n")

    def run(self, folder: Path) -> None:
        """Report that all is well."""
        clock = float((folder / CLOCK).read_text())
        (folder / ARRIVAL).write_text(json.dumps({"time": clock + 0.1, "login_time": clock}))
        (folder / REPORT).write_text(json.dumps(asdict(GOOD)))

    def queue(self, command: Sequence[str]) -> Answer:
        """The state of every job."""
        return Answer(0, "".join(f"{5 + n}|{self.state}\n" for n in range(len(self.folders))))


class Mute(Cluster):
    """Its jobs leave nothing but, perhaps, a last word in their log."""

    word = ""

    def run(self, folder: Path) -> None:
        """Leave the word."""
        if self.word:
            (folder / "5_0_log.out").write_text(f"{self.word}\nsrun: error: node7: task 0: Exited with exit code 1\n")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often, and believe at once that a report will not come."""
    for name in ("_POLL_SECONDS", "_QUEUE_SECONDS", "_LAST_LOOK_SECONDS"):
        monkeypatch.setattr(probe, name, 0.01)


@needs_srun
def test_node_is_judged_by_its_report_and_nothing_stays_behind(tmp_path: Path) -> None:
    cluster = Cluster()
    found = look_inside([GPU_JOB, stage_job("fetch")], SITE, tmp_path / "store", cluster, 30.0)
    assert not has_error(found) and len(cluster.folders) == 2
    assert list(tmp_path.iterdir()) == []
    assert any(words.startswith("scancel --quiet --name=athanor-doctor-") for words in cluster.asked)


@needs_srun
def test_stages_that_run_in_the_same_place_share_one_small_job(tmp_path: Path) -> None:
    cluster = Cluster()
    look_inside([stage_job("fetch", cpus_per_task=4), stage_job("export", cpus_per_task=2)], SITE, tmp_path, cluster, 30.0)
    assert len(cluster.folders) == 1


@needs_srun
@pytest.mark.parametrize(
    ("state", "exit_code", "word", "level", "said"),
    [
        ("PENDING|Resources", "0:0", "", Level.WARNING, "Slurm says PENDING (Resources)"),
        ("FAILED|NonZeroExitCode", "0:53", "", Level.ERROR, "does not see"),
        ("FAILED|NonZeroExitCode", "1:0", "", Level.ERROR, "does not see"),
        ("FAILED|NonZeroExitCode", "1:0", "python: not found", Level.ERROR, "(NonZeroExitCode) without a report: python"),
        ("TIMEOUT|TimeLimit", "0:15", "", Level.ERROR, "ended TIMEOUT (TimeLimit) without a report: no word"),
    ],
)  # fmt: skip
def test_small_job_that_does_not_report(tmp_path: Path, state: str, exit_code: str, word: str, level: Level, said: str) -> None:
    cluster = Mute(state, exit_code)
    cluster.word = word
    (found,) = look_inside([GPU_JOB], SITE, tmp_path, cluster, 0.5)
    assert (found.level, said in found.found) == (level, True)
    assert list(tmp_path.iterdir()) == []


@needs_srun
def test_small_job_that_is_refused_is_an_error(tmp_path: Path) -> None:
    cluster = Cluster()
    cluster.answers = {"sbatch": Answer(1, "", "sbatch: error: QOSMaxSubmitJobPerUserLimit\n"), "": Answer(0)}
    (found,) = look_inside([GPU_JOB], SITE, tmp_path, cluster, 5.0)
    assert (found.level, "QOSMaxSubmitJobPerUserLimit" in found.found) == (Level.ERROR, True)


@needs_srun
def test_interrupt_cancels_the_jobs_and_removes_their_files(tmp_path: Path) -> None:
    class Interrupted(Mute):
        def queue(self, command: Sequence[str]) -> Answer:
            os.kill(os.getpid(), 1)  # SIGHUP: the connection is lost
            return Answer(0)

    cluster = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        look_inside([GPU_JOB], SITE, tmp_path, cluster, 30.0)
    assert list(tmp_path.iterdir()) == []
    assert any(words.startswith("scancel --quiet --name=athanor-doctor-") for words in cluster.asked)
