"""The program inside: calls functions by name, each call in a process of its own, and outlives whatever they do.

One line of JSON in, one out. Nothing but the standard library is imported, beside what the command line names: that is imported
once, and every call has it.
"""

import contextlib
import ctypes
import importlib
import json
import os
import resource
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

MEMORY = 2**30  # bytes that a call may take beside what is loaded
PROCESSES, REPLY_BYTES = 8, 2**22
SCRATCH = "/.scratch"  # all that can be written: not /tmp, in which the checkout may be
_PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 4, 36


def main() -> None:
    """`worker.py ISOLATED MODULE …`: serve until the input ends. `ISOLATED`: 1 in a process namespace of our own."""
    isolated, modules = sys.argv[1] == "1", sys.argv[2:]
    process = ctypes.CDLL(None).prctl
    process(_PR_SET_DUMPABLE, 0)  # no call reads this process's memory
    process(_PR_SET_CHILD_SUBREAPER, 1)  # whatever a call leaves is buried here before the next, which has its limit on processes
    for module in modules:
        importlib.import_module(module)
    replies, limits = os.dup(1), _limits(isolated)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.write(replies, b"0 {}\n")  # it is up
    before, names = _state(isolated), set(Path(SCRATCH).rglob("*"))
    for line in sys.stdin.buffer:
        call = json.loads(line)
        reply = _serve(call, replies, isolated, limits)
        if isolated:
            _remove_other_names(names)
        if _state(isolated) != before:
            return  # the next call has a worker that nobody touched
        os.write(replies, str(call["number"]).encode() + b" " + reply + b"\n")


def _serve(call: dict[str, Any], replies: int, isolated: bool, limits: dict[int, int]) -> bytes:
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        os.close(replies)
        _run(call, write_end, limits)
    os.close(write_end)
    reply, ended = _reply(read_end, child, time.monotonic() + call["seconds"])
    # Whatever else a call started: in a namespace of our own, everything but this process and its init. Outside of one the call's
    # group alone, while nobody else can have its number.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if isolated:
            os.kill(-1, signal.SIGKILL)
        elif ended is None:
            os.killpg(child, signal.SIGKILL)
    os.close(read_end)
    if ended is None:
        os.kill(child, signal.SIGKILL)  # it may not have had a group of its own yet
        os.waitpid(child, 0)
    with contextlib.suppress(ChildProcessError):  # what others left is this process's now
        while os.waitpid(-1, 0 if isolated else os.WNOHANG)[0]:
            pass
    if ended is None:
        return json.dumps({"ended": "too much output" if len(reply) > REPLY_BYTES else "out of time"}).encode()
    if reply.endswith(b"\n") and reply.count(b"\n") == 1 and ended == 0:  # processes that it started may write, too
        return reply[:-1]
    code = os.waitstatus_to_exitcode(ended)
    return json.dumps({"ended": f"signal {-code}" if code < 0 else f"no reply, exit code {code}"}).encode()


def _reply(read_end: int, child: int, deadline: float) -> tuple[bytes, int | None]:
    """What the call wrote, and its wait status; None where it has not ended by then, or wrote too much."""
    reply, ended = b"", None
    while len(reply) <= REPLY_BYTES:
        if ended is None:
            pid, status = os.waitpid(child, os.WNOHANG)
            ended = status if pid else None
        # Once it has ended, what is in the pipe is all: another process may hold the other end for ever.
        wait = 0.0 if ended is not None else min(0.02, deadline - time.monotonic())
        if wait < 0:
            return reply, None
        if select.select([read_end], [], [], wait)[0]:
            if not (part := os.read(read_end, 2**16)):
                return reply, ended if ended is not None else _wait(child, deadline)
            reply += part
        elif ended is not None:
            return reply, ended
    return reply, None


def _wait(child: int, deadline: float) -> int | None:
    """It closed its end of the pipe: its status, once it ends."""
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status
        time.sleep(0.001)
    return None


def _run(call: dict[str, Any], write_end: int, limits: dict[int, int]) -> None:
    """In the call's own process: never returns."""
    code = 1
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nothing, descriptor)
        for kind, most in {**limits, resource.RLIMIT_CPU: int(call["seconds"]) + 1}.items():
            resource.setrlimit(kind, (most, most))
        try:
            function = getattr(importlib.import_module(call["module"]), call["function"])
            reply = {"value": function(*call["arguments"])}
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"[:2000]}
        written = memoryview(json.dumps(reply).encode() + b"\n")
        while written:
            written = written[os.write(write_end, written) :]
        code = 0
    finally:
        os._exit(code)


def _state(isolated: bool) -> list[Any]:
    """What a call could change for those behind it: limits and priority of this process, memory that is shared."""
    mine: list[Any] = [resource.getrlimit(kind) for kind in range(16)]
    mine += [os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0), os.sched_getaffinity(0)]
    if isolated:
        for kind in ("shm", "msg", "sem"):
            with contextlib.suppress(FileNotFoundError), open(f"/proc/sysvipc/{kind}") as table:
                mine.append(len(table.readlines()))
    return mine


def _remove_other_names(names: set[Path]) -> None:
    """From the scratch: what packages make when they are imported in a call, and what a call would leave for the next."""
    for path in sorted(set(Path(SCRATCH).rglob("*")) - names, reverse=True):
        path.unlink() if path.is_symlink() or not path.is_dir() else path.rmdir()


def _limits(isolated: bool) -> dict[int, int]:
    """Of a call. The scratch is there for what packages write when they are imported; a call makes empty files at most."""
    with open("/proc/self/statm") as memory:
        loaded = int(memory.read().split()[0]) * resource.getpagesize()
    limits = {resource.RLIMIT_AS: loaded + MEMORY, resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: 0}
    # The kernel counts all processes of a user, outside too; inside we may be the only one of ours.
    return {**limits, resource.RLIMIT_NPROC: PROCESSES} if isolated else limits


if __name__ == "__main__":
    main()
