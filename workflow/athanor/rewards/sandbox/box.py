"""The sandbox as the rest sees it: functions called by name in a worker behind walls, which is started again when it dies."""

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from athanor.artifacts.run import StageError
from athanor.rewards.sandbox import worker
from athanor.rewards.sandbox.isolation import Isolation, find_isolation

START_SECONDS = 180.0  # until the worker has imported its modules
GRACE_SECONDS = 10.0  # behind a call's own deadline, which the worker keeps
TAIL = 1000  # characters of an error


@dataclass(frozen=True)
class Outcome:
    """What became of a call: a value, or how it came to none."""

    value: Any = None
    error: str = ""  # of an exception that the function raised
    ended: str = ""  # out of time, killed by a signal, …: of a call that said nothing

    @property
    def came(self) -> bool:
        """Whether there is a value."""
        return not self.error and not self.ended


@dataclass
class Sandbox:
    """One worker; calls run one after the other. `modules` are imported once and are there in every call.

    Nothing that a call does outlives it but the reply; a worker that a call has changed is replaced. It ends with the thread that
    made the first call. Where the machine has no isolation, `isolation.complete` is False: then only functions may be called
    that do not run what a model wrote.
    """

    modules: Sequence[str] = ()
    isolation: Isolation = field(default_factory=find_isolation)
    started: int = 0  # how often, the first time included
    calls: int = 0
    _process: subprocess.Popen[bytes] | None = None
    _unread: bytes = b""

    def __enter__(self) -> "Sandbox":
        """Started at the first call, not before."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End the worker."""
        self.close()

    def call(self, module: str, function: str, *arguments: Any, seconds: float) -> Outcome:
        """The function's value for arguments that JSON can hold. Raises StageError only where no worker can be started."""
        process = self._process or self._start()
        self.calls += 1
        request = {"module": module, "function": function, "arguments": arguments, "seconds": seconds, "number": self.calls}
        line = None
        if _write(process, json.dumps(request).encode() + b"\n", seconds + GRACE_SECONDS):
            line = self._line(process, seconds + GRACE_SECONDS)
        number, _, reply = (line or b"").partition(b" ")
        if number != str(self.calls).encode() or self._unread:
            self.close()
            return Outcome(ended="it took the sandbox down")
        return _outcome(reply)

    def close(self) -> None:
        """End the worker and all that runs in it. The next call starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):  # what of a request it never read
                        pipe.close()
        self._process, self._unread = None, b""

    def _start(self) -> subprocess.Popen[bytes]:
        inside = [sys.executable, "-P", worker.__file__, str(int(self.isolation.complete)), *self.modules]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        # Of the environment nothing goes inside, where it might be read from bubblewrap's own memory.
        # Without walls it does; generators that go by hashes make the same problems in every worker either way.
        walled = {"PATH": os.environ.get("PATH", os.defpath)}
        outside = walled if self.isolation.complete else {**os.environ, "PYTHONHASHSEED": "0"}
        process = subprocess.Popen(self.isolation.before(inside), env=outside, **pipes)  # type: ignore[call-overload]
        self._process, self._unread, self.started = process, b"", self.started + 1
        os.set_blocking(process.stdin.fileno(), False)
        if self._line(process, START_SECONDS) is None:
            process.kill()
            said = process.stderr.read().decode(errors="replace").strip()
            self.close()
            raise StageError(f"the sandbox does not start: {said[-TAIL:] or 'no reply'}")
        return process  # type: ignore[no-any-return]

    def _line(self, process: subprocess.Popen[bytes], seconds: float) -> bytes | None:
        """The next line of the worker; None where it ends or says nothing in time, or too much."""
        assert process.stdout is not None
        deadline = time.monotonic() + seconds
        while b"\n" not in self._unread and len(self._unread) <= 2 * worker.REPLY_BYTES:
            if not select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return None
            if not (part := os.read(process.stdout.fileno(), 2**16)):
                return None
            self._unread += part
        line, found, self._unread = self._unread.partition(b"\n")
        return line if found else None


def _write(process: subprocess.Popen[bytes], request: bytes, seconds: float) -> bool:
    """Whether the worker took all of it in time."""
    assert process.stdin is not None
    left, deadline = memoryview(request), time.monotonic() + seconds
    while left:
        if not select.select([], [process.stdin], [], max(0.0, deadline - time.monotonic()))[1]:
            return False
        try:
            left = left[os.write(process.stdin.fileno(), left[: 2**16]) :]
        except BlockingIOError:
            continue
        except BrokenPipeError:
            return False
    return True


def _outcome(reply: bytes) -> Outcome:
    """As the worker writes it; a call may have written it itself."""
    try:
        said = json.loads(reply)
    except (ValueError, RecursionError):
        said = None
    if isinstance(said, dict) and len(said) == 1:
        [(name, value)] = said.items()
        if name == "value" or (name in ("error", "ended") and isinstance(value, str) and value):
            return Outcome(**{name: value})
    return Outcome(ended="its reply is none")
