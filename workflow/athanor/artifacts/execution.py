"""Run one stage to its manifest: check who it is, adopt what is already there, take the lease, compute, seal.

Every rank of a job comes through `execute`. Rank 0 decides (compute, or adopt what another driver made) and tells the
others by a file in the artifact's folder, since they have no process group yet.
"""

import contextlib
import faulthandler
import importlib.metadata
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import yaml

from athanor.artifacts.files import record_files, write_atomically, write_json
from athanor.artifacts.lease import Lease
from athanor.artifacts.manifest import (
    IDENTITY,
    MANIFEST,
    SEAL,
    DamagedManifest,
    Manifest,
    ManifestError,
    Provenance,
    Result,
    Upstream,
)
from athanor.artifacts.node import settle
from athanor.artifacts.run import STOPPED, Heartbeat, Input, Outcome, StageError, StageRun, Stopped
from athanor.recipe.graph import Artifact
from athanor.recipe.lifecycle import Lifecycle
from athanor.recipe.loading import load_resolved, load_site, project_folder
from athanor.tracking.spool import Spool

RunStage = Callable[[StageRun], Outcome]
DECISION_POLL_SECONDS = 0.05


class Decision(StrEnum):
    """What all ranks of a job do."""

    COMPUTE = "compute"
    ADOPT = "adopt"  # the artifact is complete: nothing to compute


@dataclass(frozen=True)
class Order:
    """The arguments of `athanor stage`. Inputs that are not named are the store's own."""

    stage: str
    recipe: Path
    site: str
    inputs: Mapping[str, Path]
    manifest: Path


def execute(order: Order, run: RunStage) -> int:
    """Make the artifact `order.manifest` belongs to. Returns the exit code: 0 done, 75 stopped, 1 failed."""
    rank, attempt = int(os.environ.get("RANK", "0")), os.environ.get("SUBMITIT_ATTEMPT_FOLDER")
    attempt_folder = Path(attempt) if attempt else None
    note = attempt_folder / f"exit-{_executors_rank(rank)}.json" if attempt_folder else None
    if note:
        note.unlink(missing_ok=True)  # of a start before, inside the same job
    with _stacks_on_request(attempt_folder / f"stacks-{rank}.txt" if attempt_folder else None):
        try:
            return _execute(order, run, rank, attempt_folder)
        except Stopped as stopped:
            print(f"stopped: {stopped}; the next start continues from here", file=sys.stderr, flush=True)
            return STOPPED
        except (StageError, ManifestError) as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            kind, cause = getattr(error, "kind", StageError.kind), str(error)
            node = getattr(error, "node", StageError.node)
        except Exception as error:  # the boundary of the process: every failure must leave its cause behind
            traceback.print_exc()
            kind, cause, node = "exception", f"{type(error).__name__}: {error}", ""
    if note and not note.exists():  # of several ranks that the executor takes for one, the first has its say
        write_json(note, {"schema_version": 1, "kind": kind, "cause": cause, "node": node, "time": time.time()})
    return 1


def _executors_rank(rank: int) -> int:
    """The executor's number of the task that this rank belongs to: a launcher of ranks inside a job is one task a node."""
    return int(os.environ["NODE_RANK"]) if "TORCHELASTIC_RUN_ID" in os.environ else rank


@contextlib.contextmanager
def _stacks_on_request(path: Path | None) -> Iterator[None]:
    """Have SIGUSR1 write every thread's stack to `path`: the executor asks for it before it ends a hang."""
    if path is None:
        yield
        return
    with path.open("a") as file:
        faulthandler.register(signal.SIGUSR1, file=file, all_threads=True)
        try:
            yield
        finally:
            faulthandler.unregister(signal.SIGUSR1)
            if not path.stat().st_size:
                path.unlink()


def _execute(order: Order, run: RunStage, rank: int, attempt_folder: Path | None) -> int:
    began, folder = time.time(), order.manifest.absolute().parent
    recipe = load_resolved(order.recipe)
    artifact = _identify(order, folder, Lifecycle(recipe, project_folder()))
    site = load_site(order.site)
    settle(site)
    stage = StageRun(
        recipe=recipe,
        stage=order.stage,
        instance=artifact.instance,
        fingerprint=artifact.fingerprint,
        folder=folder,
        inputs=_open_inputs(order, artifact),
        rank=rank,
        world_size=int(os.environ.get("WORLD_SIZE", "1")),
        roll_back=os.environ.get("SUBMITIT_ROLL_BACK") == "1" and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0",
        site=site,
        heartbeat=Heartbeat(attempt_folder, site.heartbeat_seconds),
    )
    stage.listen_for_stop()
    _check_versions(artifact)
    if rank != 0:
        decision, stage.attempt = _await_decision(folder)
        if decision is Decision.COMPUTE:
            run(stage)
        return 0
    lease = Lease(folder)

    def is_finished() -> bool:
        if stage.stop_requested:
            raise Stopped("before the work began")
        return _adopt(folder)

    if not lease.acquire(is_finished, lambda text: print(text, flush=True)):
        _announce(folder, stage, Decision.ADOPT)
        print(f"{artifact.name} is complete in {folder}: verified, nothing computed", flush=True)
        return 0
    with lease:
        stage.attempt = _attempt_number(folder)
        write_atomically(folder / IDENTITY, yaml.safe_dump(artifact.identity(), sort_keys=True))
        _announce(folder, stage, Decision.COMPUTE)
        print(
            f"{artifact.name}, attempt {stage.attempt} on {socket.gethostname()}, {stage.world_size} rank(s)",
            flush=True,
        )
        _compute(stage, artifact, run, began)
        print(f"{artifact.name} done in {time.time() - began:.1f} s", flush=True)
    return 0


def _compute(stage: StageRun, artifact: Artifact, run: RunStage, began: float) -> None:
    """Rank 0's run, tracked from its start to its end, and sealed."""
    spool = Spool(stage.folder / "tracking" / f"{stage.attempt:03d}.jsonl")
    stage.spool = spool
    spool.start(_start_record(stage, artifact))
    status, message, counters = "failed", "", dict[str, int | str]()
    try:
        with spool.system_metrics():
            outcome = run(stage)
        manifest = _manifest(stage, artifact, outcome, began)
        manifest.write(stage.folder)
        status, counters = "finished", dict(outcome.counters)
    except Stopped as stopped:
        status, message = "stopped", str(stopped)
        raise
    except BaseException as error:
        message = f"{type(error).__name__}: {error}"
        raise
    finally:
        spool.end(status, message=message, seconds=time.time() - began, counters=counters)
        spool.close()


def _identify(order: Order, folder: Path, lifecycle: Lifecycle) -> Artifact:
    """The artifact of the recipe that belongs in `folder`. Raises StageError when code, recipe or pins moved on."""
    path = f"{order.stage}/{folder.name}"
    try:
        return lifecycle.by_path(path)
    except KeyError:
        now = ", ".join(a.path for a in lifecycle.of(order.stage))
        raise StageError(
            f"{path} is no artifact of {order.recipe.name} any more (now {now}): the code, a stage version or a pin in "
            "envs/ changed after this job was planned. Go back to that checkout, or run snakemake again to plan anew."
        ) from None


def _open_inputs(order: Order, artifact: Artifact) -> dict[str, Input]:
    store, inputs = order.manifest.absolute().parents[2], {}
    for name, upstream in artifact.upstreams.items():
        path = order.inputs.get(name, store / upstream.path / MANIFEST).absolute()
        manifest = Manifest.read(path)
        if manifest.result.fingerprint != upstream.fingerprint:
            raise StageError(f"--input {name}: {path} is not {upstream.path}")
        if wrong := manifest.verify(path.parent):
            raise StageError(f"input {upstream.name} is damaged: {wrong[0]}; delete {path} and run snakemake to remake it")
        inputs[name] = Input(path.parent, manifest)
    return inputs


def _check_versions(artifact: Artifact) -> None:
    """A stage's identity promises versions: refuse to compute with others."""
    for package, pinned in artifact.packages.items():
        try:
            installed = importlib.metadata.version(package).split("+")[0]
        except importlib.metadata.PackageNotFoundError:
            installed = "nothing"
        if installed != pinned:
            raise StageError(
                f"{artifact.name} is pinned to {package} {pinned}, but {sys.executable} has {installed}; "
                "make install brings the pinned environment"
            )


def _adopt(folder: Path) -> bool:
    """Whether the folder is complete; a sealed folder whose manifest was deleted gets it back after a deep check."""
    if (folder / MANIFEST).is_file():
        return True
    if not (folder / SEAL).is_file():
        return False
    try:
        sealed = Manifest.read(folder / SEAL)
        wrong = sealed.verify(folder, deep=True)
    except DamagedManifest as error:
        wrong = [str(error)]
    if wrong:
        print(f"found a sealed result, but {wrong[0]}: making it again", flush=True)
        os.replace(folder / SEAL, folder / f"{SEAL}.damaged")
        return False
    sealed.write(folder)
    return True


def _attempt_number(folder: Path) -> int:
    """The executor's number of this start; the next free one where ranks were started again inside a job."""
    spools = [int(path.stem) for path in (folder / "tracking").glob("*.jsonl")]
    return max(int(os.environ.get("SUBMITIT_ATTEMPT") or 0), 1 + max(spools, default=0))


def _decision_path(folder: Path) -> Path:
    """Where rank 0 tells the others; every start has a port of its own, also inside a job."""
    start = int(os.environ.get("SUBMITIT_ATTEMPT") or 0)
    return folder / "attempts" / f"decision-{start:03d}-{os.environ.get('MASTER_PORT', '0')}.json"


def _announce(folder: Path, stage: StageRun, decision: Decision) -> None:
    if stage.world_size > 1:
        write_json(_decision_path(folder), {"decision": decision, "attempt": stage.attempt})


def _await_decision(folder: Path) -> tuple[Decision, int]:
    """What rank 0 decided, and its number of this attempt."""
    path = _decision_path(folder)
    while not path.is_file():
        time.sleep(DECISION_POLL_SECONDS)
    record = json.loads(path.read_text())
    return Decision(record["decision"]), int(record["attempt"])


def _start_record(stage: StageRun, artifact: Artifact) -> dict[str, object]:
    return {
        "stage": artifact.stage,
        "instance": artifact.instance,
        "fingerprint": artifact.fingerprint,
        "attempt": stage.attempt,
        "params": dict(artifact.identity()["section"]),
        "upstreams": {
            name: {"stage": u.stage, "instance": u.instance, "fingerprint": u.fingerprint}
            for name, u in artifact.upstreams.items()
        },
        "host": socket.gethostname(),
        "versions": dict(artifact.packages),
        "git_commit": git_commit(),
    }


def _manifest(stage: StageRun, artifact: Artifact, outcome: Outcome, began: float) -> Manifest:
    result = Result(
        stage=artifact.stage,
        instance=artifact.instance,
        fingerprint=artifact.fingerprint,
        upstreams={n: Upstream(u.stage, u.instance, u.fingerprint) for n, u in artifact.upstreams.items()},
        files=record_files(stage.folder, outcome.files),
        counters=dict(outcome.counters),
    )
    provenance = Provenance(
        tracking_id=f"{artifact.fingerprint}/{stage.attempt:03d}",
        attempts=stage.attempt,
        started=began,
        seconds=round(time.time() - began, 3),
        host=socket.gethostname(),
        git_commit=git_commit(),
        metrics={name: float(v) for name, v in outcome.metrics.items() if math.isfinite(v)},  # JSON has no NaN
        versions={"python": ".".join(map(str, sys.version_info[:3])), **artifact.packages},
        jobs=tuple(j for j in [os.environ.get("SLURM_JOB_ID", "")] if j),
        trainer=dict(outcome.trainer),
    )
    return Manifest(result, provenance)


def git_commit() -> str:
    """The checkout's commit, with `+` when files differ from it; empty outside git."""
    try:
        command = [
            "git",
            "-C",
            str(project_folder()),
            "describe",
            "--always",
            "--abbrev=12",
            "--dirty=+",
            "--exclude=*",
        ]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""
