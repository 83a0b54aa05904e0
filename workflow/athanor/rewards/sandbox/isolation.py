"""How a process is shut off on this machine: by bubblewrap. Whether it works here is tried, not assumed."""

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import athanor
from athanor.rewards.sandbox import worker

USERS = range(60_000, 65_534)  # one is drawn for each worker: a limit on processes counts a user's in all of them
PROBE_SECONDS = 20.0
_NAMESPACES = ("--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try")
# RLIMIT_NPROC does not bind root, nor what a user namespace maps to root: another user it has to be.
_USER = "USER"
_AS_ANOTHER = ("setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--clear-groups", "--no-new-privs")
_PROBE = "import os, sys; sys.exit('files of this machine are to be seen' if os.path.exists('/etc/passwd') else 0)"


@dataclass(frozen=True)
class Isolation:
    """`command` goes before a program's own; empty: nothing shuts it off here, and `why` says for what reason."""

    command: tuple[str, ...]
    why: str = ""

    @property
    def complete(self) -> bool:
        """Whether what a model wrote may run."""
        return bool(self.command)

    def before(self, program: Sequence[str]) -> list[str]:
        """The whole command that starts `program` behind walls."""
        user = str(secrets.choice(USERS))
        return [word.replace(_USER, user) if word in _AS_ANOTHER else word for word in self.command] + list(program)


@cache
def find_isolation(*readable: Path) -> Isolation:
    """What this machine has, tried by starting this interpreter: as another user where we are root, else in a user namespace.

    `readable`: files and folders that may be read inside, beside the interpreter, its packages and our sources.
    """
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        return Isolation((), "bubblewrap is not installed (apt install bubblewrap, dnf install bubblewrap)")
    outside = (bwrap, *_NAMESPACES, "--die-with-parent", "--new-session", "--clearenv", *_variables())
    # As pid 1: else bubblewrap is that, our user, with our environment and our pipes for any call to open.
    alone = ("--unshare-user", "--as-pid-1", "--cap-drop", "ALL", "--")
    ways = [Isolation((*outside, *_file_system(readable, ()), *alone))]
    if os.geteuid() == 0 and shutil.which("setpriv"):
        capabilities = ("--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID")
        for_another = _file_system(readable, ("--perms", "1777"))
        ways.insert(0, Isolation((*outside, *for_another, *capabilities, "--", *_AS_ANOTHER)))
    troubles = []
    for way in ways:
        if not (trouble := _trouble_with(way)):
            return way
        troubles.append(trouble)
    return Isolation((), f"bubblewrap does not start here: {'; '.join(troubles)}")


def _trouble_with(way: Isolation) -> str:
    command = way.before([sys.executable, "-I", "-S", "-c", _PROBE])
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]


def _variables() -> Iterator[str]:
    # Hashes of strings: some generators of problems follow them.
    known = {
        "PATH": "/usr/bin:/bin",
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": str(_sources().parent),
        "LANG": "C.UTF-8",
        "HOME": worker.SCRATCH,
        "TMPDIR": worker.SCRATCH,
    }
    for name, value in {**known, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}.items():
        yield from ("--setenv", name, value)


def _file_system(readable: Sequence[Path], of_scratch: Sequence[str]) -> Iterator[str]:
    """The system's programs, this interpreter with its packages, our sources, and what else may be read; none can be written.

    The scratch can, for what packages write when they are imported. `of_scratch`: options for it.
    """
    yield from ("--ro-bind", "/usr", "/usr", "--proc", "/proc", "--dev", "/dev")
    for name in ("/bin", "/sbin", "/lib", "/lib32", "/lib64"):
        path = Path(name)
        if path.is_symlink():
            yield from ("--symlink", os.readlink(path), name)
        elif path.is_dir():
            yield from ("--ro-bind", name, name)
    yield from (*of_scratch, "--tmpfs", worker.SCRATCH)
    for path in _outermost([Path(sys.prefix), Path(sys.base_prefix), _sources(), *readable]):
        for parent in [*path.parents][-2::-1]:  # made by a bind alone, root alone may go through it
            yield from ("--perms", "0755", "--dir", str(parent))
        yield from ("--ro-bind", str(path), str(path))
    yield from ("--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/")


def _outermost(paths: Sequence[Path]) -> list[Path]:
    return [p for p in dict.fromkeys(paths) if not any(o in p.parents for o in (*paths, Path("/usr"))) and p != Path("/usr")]


def _sources() -> Path:
    return Path(str(athanor.__file__)).parent
