"""One artifact, one worker: a lease in the store, safe on a shared file system without flock.

The lease is a file made by exclusive link; its holder touches it while it lives. Another worker waits, and takes over
when the holder is known dead (same host, no such process) or silent for long by the file server's own clock.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

LEASE = "lease.json"
SILENCE_SECONDS = 120.0  # NFS attribute caches hold 60 s


@dataclass(frozen=True)
class Holder:
    """Who holds a lease."""

    host: str
    pid: int
    started: int  # clock ticks after boot: tells a reused pid
    token: str


UNREADABLE = Holder("", 0, 0, "unreadable")  # a lease torn by a power cut: free once it has been silent for long


class Lease:
    """The exclusive right to write into `folder`; a context manager that touches the file while it is held."""

    def __init__(self, folder: Path, touch_seconds: float = 20.0) -> None:
        self._path, self._touch_seconds = folder / LEASE, touch_seconds
        self._me = Holder(socket.gethostname(), os.getpid(), process_start(os.getpid()) or 0, uuid.uuid4().hex)
        self._released = threading.Event()

    def try_acquire(self) -> bool:
        """Take the lease if it is free or its holder is gone."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._create():
            return True
        holder = read_holder(self._path)
        if holder is None or not self._is_gone(holder):
            return False
        return self._take_over(holder)

    def acquire(self, finished: Callable[[], bool], say: Callable[[str], None], poll_seconds: float = 0.5) -> bool:
        """Wait for the lease; False as soon as `finished()`: nothing is left to do. `say` hears of the wait."""
        said = False
        while not self.try_acquire():
            if finished():
                return False
            if not said and (holder := read_holder(self._path)):
                say(f"waiting for process {holder.pid} on {holder.host}, which is making this artifact")
                said = True
            time.sleep(poll_seconds)
        try:
            done = finished()
        except BaseException:
            self.release()
            raise
        if done:
            self.release()
        return not done

    def holder(self) -> Holder | None:
        """Who holds the lease and lives; None while it can be had."""
        holder = read_holder(self._path)
        return None if holder is None or self._is_gone(holder) else holder

    def release(self) -> None:
        """Give it up, if it is still ours."""
        self._released.set()
        holder = read_holder(self._path)
        if holder is not None and holder.token == self._me.token:
            self._path.unlink(missing_ok=True)

    def __enter__(self) -> "Lease":
        threading.Thread(target=self._keep_touching, name="lease", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()

    def _create(self) -> bool:
        claim = self._write_claim()
        try:
            os.link(claim, self._path)  # atomic also on NFS, and the content is there at once
            return True
        except FileExistsError:
            return False
        finally:
            claim.unlink()

    def _take_over(self, gone: Holder) -> bool:
        """Replace the lease of a holder that is gone; of several takers exactly one succeeds."""
        mutex = self._path.with_name(f".{LEASE}.{gone.token}.takeover")
        try:
            os.close(os.open(mutex, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            if self._silent_seconds(mutex) > SILENCE_SECONDS:  # that taker died in turn
                mutex.unlink(missing_ok=True)
            return False
        try:
            holder = read_holder(self._path)
            if holder is None or holder.token != gone.token:  # somebody was faster
                return False
            os.replace(self._write_claim(), self._path)
            return True
        finally:
            mutex.unlink(missing_ok=True)

    def _write_claim(self) -> Path:
        claim = self._path.with_name(f".{LEASE}.{self._me.token}")
        claim.write_text(json.dumps(self._me.__dict__))
        return claim

    def _is_gone(self, holder: Holder) -> bool:
        if holder.host == self._me.host:
            return process_start(holder.pid) != holder.started
        return self._silent_seconds(self._path) > SILENCE_SECONDS

    def _silent_seconds(self, path: Path) -> float:
        """Seconds since `path` was touched, both read off the file server's clock."""
        probe = path.with_name(f".{LEASE}.{self._me.token}.clock")
        probe.touch()
        try:
            return probe.stat().st_mtime - path.stat().st_mtime
        except FileNotFoundError:
            return 0.0
        finally:
            probe.unlink()

    def _keep_touching(self) -> None:
        while not self._released.wait(self._touch_seconds):
            try:
                os.utime(self._path)
            except FileNotFoundError:
                return


def read_holder(path: Path) -> Holder | None:
    """Who holds the lease file `path`; None where there is none, UNREADABLE where it does not say."""
    try:
        return Holder(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        return UNREADABLE


def process_start(pid: int) -> int | None:
    """Start time of a living process in clock ticks after boot; None where there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    after_name = text[text.rindex(")") + 2 :].split()
    return None if after_name[0] == "Z" else int(after_name[19])
