"""Small jobs that look at compute nodes from inside and report through the store. They and their files are always removed."""

import contextlib
import getpass
import json
import os
import shlex
import shutil
import signal
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FrameType

from athanor.cluster.commands import Ask
from athanor.cluster.findings import Finding, error, warning
from athanor.cluster.jobs import StageJob, batch_script, merge
from athanor.cluster.node_findings import judge_clock, judge_report
from athanor.cluster.node_report import ARRIVAL, CLOCK, QUESTION, REPORT, Question, read_report
from athanor.cluster.storage import nearest_folder
from athanor.recipe.secrets import secrets_path
from athanor.recipe.site import Site

_POLL_SECONDS, _QUEUE_SECONDS = 0.5, 3.0
_LAST_LOOK_SECONDS = 20.0  # after a job's end, until its report must have come through a slow file server
_CLEAN_UP_SECONDS = 20.0
_PROBE_MINUTES, _PROBE_MB = 10, 4000  # torch and transformers, imported on one core
_ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL", "PREEMPTED", "OUT_OF_MEMORY", "DEADLINE")


@dataclass
class Probe:
    """One job that looks at one node, on behalf of the stages that would run there."""

    job: StageJob
    folder: Path
    id: str = ""
    seen: float = 0.0
    """When its arrival was noticed, by this machine's clock."""
    findings: list[Finding] = field(default_factory=list)
    state: str = "not submitted"
    ended: float = 0.0
    """When Slurm was first seen to say that it is over; monotonic clock."""

    @property
    def is_over(self) -> bool:
        """Whether nothing more can come."""
        return bool(self.findings)


def question_for(job: StageJob, site: Site) -> Question:
    """What to ask the node where `job` would run."""
    return Question(
        workdir=str(Path.cwd()),
        prefix=job.prefix,
        python=job.python,
        stages=list(job.stages),
        packages=list(job.packages),
        on_gpu=bool(job.request().gpus_per_node),
        scratch=site.scratch,
        secrets=str(secrets_path(site)) if site.secrets else "",
    )


def small(job: StageJob) -> StageJob:
    """`job` cut down to one rank on one node for some minutes, at the same place and with the same setup."""
    request = job.request()
    cut: dict[str, object] = {"nodes": 1, "tasks": 1, "cpus_per_task": 1}
    cut["mem_mb"] = min(request.mem_mb or _PROBE_MB, _PROBE_MB)
    cut["runtime"] = min(request.runtime_minutes or _PROBE_MINUTES, _PROBE_MINUTES)
    cut |= {"gpus_per_node": 1} if request.gpus_per_node else {}
    return replace(job, resources={**job.resources, **cut})


def look_inside(jobs: Sequence[StageJob], site: Site, store: Path, ask: Ask, wait_seconds: float) -> list[Finding]:
    """Submit a probe for every different place where `jobs` run, wait for the reports, and judge them."""
    name = f"athanor-doctor-{uuid.uuid4().hex[:8]}"
    folder = nearest_folder(store) / f".{name}"
    with _hang_up_is_interrupt(), _cleaned(name, folder, ask):
        folder.mkdir()
        probes = [Probe(job, folder / str(number)) for number, job in enumerate(merge([small(job) for job in jobs]))]
        print(f"asking nodes: {len(probes)} small job(s) called {name}, at most {wait_seconds:.0f} s", file=sys.stderr)
        for probe in probes:
            _submit(probe, name, site, ask)
        _await(probes, site, ask, time.monotonic() + wait_seconds)
    return [finding for probe in probes for finding in probe.findings or [_late(probe, wait_seconds)]]


def _submit(probe: Probe, name: str, site: Site, ask: Ask) -> None:
    probe.folder.mkdir()
    (probe.folder / QUESTION).write_text(json.dumps(asdict(question_for(probe.job, site))))
    _set_clock(probe)
    command = f"{shlex.quote(sys.executable)} -m athanor.cluster.node_report {shlex.quote(str(probe.folder))}"
    script = probe.folder / "probe.sh"
    script.write_text(batch_script(probe.job, probe.folder, name, command))
    answer = ask(["sbatch", "--parsable", "--no-requeue", str(script)])
    probe.id = answer.out.strip().partition(";")[0]
    if answer.code:
        probe.findings = [error(f"{probe.job.name}: sbatch refuses a small job: {answer.last_words}", "mend what it names")]


def _await(probes: Sequence[Probe], site: Site, ask: Ask, deadline: float) -> None:
    """Give every probe its findings, until the deadline."""
    asked = 0.0
    while time.monotonic() < deadline:
        for probe in probes:
            if not probe.is_over:
                _set_clock(probe)
                _look(probe, site, ask)
        open_probes = [probe for probe in probes if not probe.is_over]
        if not open_probes:
            return
        if time.monotonic() - asked > _QUEUE_SECONDS:
            asked = time.monotonic()
            _ask_queue(open_probes, ask)
        time.sleep(_POLL_SECONDS)


def _look(probe: Probe, site: Site, ask: Ask) -> None:
    """See what the probe has left in its folder by now."""
    # A listing asks the file server, where a look at a single name may be answered by a cache.
    names = {path.name for path in probe.folder.iterdir()}
    if ARRIVAL in names and not probe.seen:
        probe.seen = time.time()
    if REPORT in names:
        arrival = json.loads((probe.folder / ARRIVAL).read_text())
        report = read_report(probe.folder / REPORT)
        clock = judge_clock(report.host, arrival["time"] - probe.seen, arrival["time"] - arrival["login_time"])
        probe.findings = [*judge_report(probe.job, report, site), clock]
    elif probe.ended and time.monotonic() - probe.ended > _LAST_LOOK_SECONDS:
        probe.findings = [_silent(probe, ask)]


def _set_clock(probe: Probe) -> None:
    """Leave this machine's time where the probe finds it."""
    draft = probe.folder / f"{CLOCK}.draft"
    draft.write_text(str(time.time()))
    os.replace(draft, probe.folder / CLOCK)


def _ask_queue(probes: Sequence[Probe], ask: Ask) -> None:
    ids = ",".join(probe.id for probe in probes)
    answer = ask(["squeue", "-h", "--states=all", "-j", ids, "-o", "%i|%T|%r"])
    if answer.code:
        return  # it will answer again; the deadline holds in any case
    states = {line.split("|")[0]: line.split("|")[1:] for line in answer.out.splitlines() if line.count("|") == 2}
    for probe in probes:
        state, reason = states.get(probe.id, ("COMPLETED", "forgotten"))
        probe.state = state if reason == "None" else f"{state} ({reason})"
        if state in _ENDED and not probe.ended:
            probe.ended = time.monotonic()


def _silent(probe: Probe, ask: Ask) -> Finding:
    """The finding about a job that has ended without a report."""
    shown = ask(["scontrol", "-o", "show", "job", probe.id]).out
    values = dict(word.split("=", 1) for word in shown.split() if "=" in word)
    node = values.get("BatchHost", "a node")
    where = f"{node} ({probe.job.name})"
    logs = [line.strip() for path in sorted(probe.folder.glob("*.out")) for line in path.read_text(errors="replace").splitlines()]
    wrote_elsewhere = not logs and values.get("JobState") in ("COMPLETED", "FAILED")  # a folder of the same name, its own
    if values.get("ExitCode") == "0:53" or wrote_elsewhere:
        return error(f"{where}: does not see {probe.folder.parents[1]}", "set store to a folder that every node mounts")
    last = next((line for line in reversed(logs) if line and not line.startswith("srun:")), "no word")
    advice = f"the site's setup lines run there, then {sys.executable}: both must work on that node"
    return error(f"{where}: a small job ended {probe.state} without a report: {last}", advice)


def _late(probe: Probe, wait_seconds: float) -> Finding:
    found = f"{probe.job.name}: no report of a small job after {wait_seconds:.0f} s, Slurm says {probe.state}"
    return warning(found, "its node is not checked; wait for longer: --wait 1h")


@contextlib.contextmanager
def _cleaned(name: str, folder: Path, ask: Ask) -> Iterator[None]:
    """Cancel the jobs called `name`, those whose id nobody has read too, and remove their files, however the block ends."""
    try:
        yield
    finally:
        mine = [f"--name={name}", f"--user={getpass.getuser()}"]
        ask(["scancel", "--quiet", *mine])
        end = time.monotonic() + _CLEAN_UP_SECONDS
        while ask(["squeue", "-h", *mine, "-o", "%i"]).out.strip() and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _hang_up_is_interrupt() -> Iterator[None]:
    """Have a lost connection, or a plain kill, end the block as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGHUP, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
