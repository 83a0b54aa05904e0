"""What a compute node is like, seen from inside a job: `python -m athanor.cluster.node_report FOLDER`.

The login node has left its question in FOLDER; the report goes there, too. Nothing here needs more than the driver's
own environment; the stage's interpreter is started as the stage would be.
"""

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from athanor.recipe.scratch import ScratchError, make_scratch
from athanor.recipe.secrets import SecretsError, read_secrets
from snakemake_executor_plugin_submitit.watchdog import save_stacks, stacks_file

QUESTION, CLOCK, ARRIVAL, REPORT = "question.json", "clock", "arrival.json", "report.json"
_IMPORT_SECONDS = 300  # torch and what hangs on it, from a cold file server
_MARK = "athanor-doctor:"
_SANDBOXED = {"problems", "pool", "online"}  # stages that judge answers to problems of the task registry
_IMPORTS = f"""
import importlib, importlib.metadata, json, sys
stages, packages, on_gpu = json.loads(sys.argv[1])
wrong, versions = {{}}, {{}}
for stage in stages:
    try:
        importlib.import_module("athanor.stages." + stage)
    except BaseException as error:
        wrong[stage] = type(error).__name__ + ": " + str(error)
for package in packages:
    try:
        versions[package] = importlib.metadata.version(package).split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        versions[package] = "nothing"
gpus = sys.modules["torch"].cuda.device_count() if on_gpu and "torch" in sys.modules else -1
isolation = sys.modules.get("athanor.rewards.sandbox.isolation")
walls = isolation.find_isolation().why if isolation and {_SANDBOXED!r} & set(stages) else ""
print("\\n{_MARK}" + json.dumps([wrong, versions, gpus, walls]))
"""


@dataclass(frozen=True)
class Question:
    """What the login node wants to know."""

    workdir: str
    """Where stages are started."""
    prefix: str
    python: str
    stages: list[str]
    packages: list[str]
    on_gpu: bool
    """GPUs were asked for."""
    scratch: str
    """The site's scratch folder, or empty."""
    secrets: str
    """Path of the secrets file, or empty."""


@dataclass(frozen=True)
class Interpreter:
    """What the stage's interpreter did."""

    trouble: str = ""
    """Why it did not even start."""
    wrong: dict[str, str] = field(default_factory=dict)
    """Stage → why it cannot be imported."""
    versions: dict[str, str] = field(default_factory=dict)
    """Package → installed version."""
    gpus: int = -1
    """GPUs that torch sees; -1: nobody asked."""
    walls: str = ""
    """Why nothing shuts off what a model wrote, where a stage would run that."""


@dataclass(frozen=True)
class NodeReport:
    """What the node says."""

    host: str
    has_workdir: bool
    gpus: list[str]
    """A line a GPU: name, driver."""
    nvidia_smi: str
    """Why there are none."""
    stacks: str
    """By which means a process's stacks can be saved: py-spy, or why not."""
    scratch: str
    scratch_free: int
    """Bytes."""
    scratch_trouble: str
    interfaces: list[str]
    secrets_trouble: str
    interpreter: Interpreter


def main() -> None:
    """Read the question, look around, write the report."""
    folder = Path(sys.argv[1])
    arrival = {"time": time.time(), "login_time": float((folder / CLOCK).read_text())}
    _write(folder / ARRIVAL, arrival)
    question = Question(**json.loads((folder / QUESTION).read_text()))
    _write(folder / REPORT, asdict(examine(question)))


def examine(question: Question) -> NodeReport:
    """Look at this machine."""
    gpus, nvidia_smi = _gpus() if question.on_gpu else ([], "")
    scratch, free, trouble = _scratch(question.scratch)
    return NodeReport(
        host=socket.gethostname(),
        has_workdir=Path(question.workdir).is_dir(),
        gpus=gpus,
        nvidia_smi=nvidia_smi,
        stacks=_stacks(),
        scratch=scratch,
        scratch_free=free,
        scratch_trouble=trouble,
        interfaces=[name for _, name in socket.if_nameindex()],
        secrets_trouble=_secrets(question.secrets),
        interpreter=start_interpreter(question),
    )


def read_report(path: Path) -> NodeReport:
    """A report as `main` wrote it."""
    data = json.loads(path.read_text())
    return NodeReport(**{**data, "interpreter": Interpreter(**data["interpreter"])})


def start_interpreter(question: Question) -> Interpreter:
    """Start the stage's interpreter behind the site's launch prefix and import what the stages need."""
    asked = json.dumps([question.stages, question.packages, question.on_gpu])
    words = [question.prefix, shlex.quote(question.python), "-c", shlex.quote(_IMPORTS), shlex.quote(asked)]
    workdir = question.workdir if Path(question.workdir).is_dir() else "/"
    try:
        done = subprocess.run(
            " ".join(words), shell=True, cwd=workdir, capture_output=True, text=True, timeout=_IMPORT_SECONDS, check=False
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Interpreter(f"it has not imported everything after {_IMPORT_SECONDS} s")
    lines = done.stdout.splitlines()
    said = next((line.removeprefix(_MARK) for line in reversed(lines) if line.startswith(_MARK)), "")
    if not said:
        last = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()][-1:]
        return Interpreter(f"exit code {done.returncode}: {' '.join(last) or 'no word'}")
    wrong, versions, gpus, walls = json.loads(said)
    return Interpreter("", wrong, versions, gpus, walls)


def _gpus() -> tuple[list[str], str]:
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:
        return [], "nvidia-smi is not installed"
    except subprocess.TimeoutExpired:
        return [], "nvidia-smi hangs"
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    return (lines, "") if done.returncode == 0 else ([], " ".join((done.stderr or done.stdout).split())[:200])


def _stacks() -> str:
    """Look into another process, as the executor does with a stage that hangs; the means, or why there is none."""
    waits = "import sys; print(flush=True); sys.stdin.read()"
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        child = subprocess.Popen(
            [sys.executable, "-c", waits], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        try:
            assert child.stdout is not None
            child.stdout.readline()
            means = save_stacks(child.pid, stacks_file(Path(folder), 0))
        finally:
            child.kill()
            child.communicate()
    if means == "py-spy":
        return means
    if shutil.which("py-spy", path=os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.executable).parent)])) is None:
        return "py-spy is not installed"
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    return f"ptrace is not permitted (ptrace_scope {scope.read_text().strip() if scope.exists() else 'unknown'})"


def _scratch(wanted: str) -> tuple[str, int, str]:
    """The folder for temporary files, its free bytes, and what is wrong with it."""
    folder = Path(os.environ.get("TMPDIR") or "/tmp")
    try:
        folder = make_scratch(wanted) if wanted else folder
        with tempfile.TemporaryFile(dir=folder):
            room = os.statvfs(folder)
    except (OSError, ScratchError) as error:
        return str(folder), 0, getattr(error, "strerror", None) or str(error)
    return str(folder), room.f_bavail * room.f_frsize, ""


def _secrets(path: str) -> str:
    try:
        if path:
            read_secrets(Path(path))
    except SecretsError as error:
        return str(error)
    return ""


def _write(path: Path, data: object) -> None:
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(data))
    os.replace(draft, path)


if __name__ == "__main__":
    main()
