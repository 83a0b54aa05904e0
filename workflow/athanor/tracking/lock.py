"""One writer a campaign: a lock file in the store, safe on a shared file system without flock.

The file appears by exclusive link with its content and is touched while its holder lives. A holder is gone when its
process is (same host) or when it has been silent for long by the file server's own clock (another host).
"""

import json
import os
import socket
import threading
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

SILENCE_SECONDS = 120.0  # NFS attribute caches hold 60 s
TOUCH_SECONDS = 10.0


class WriterLock:
    """The exclusive right to write one campaign's runs."""

    def __init__(self, path: Path, silence_seconds: float = SILENCE_SECONDS) -> None:
        self._path, self._silence = path, silence_seconds
        self._me = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": process_start(os.getpid()),
            "token": uuid.uuid4().hex,
        }
        self._released = threading.Event()

    def try_acquire(self) -> bool:
        """Take the lock if it is free or its holder is gone."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if create_exclusively(self._path, json.dumps(self._me)):
            return self._begin()
        holder = self._holder()
        if holder is None or not self._is_gone(holder) or not self._take_over(holder):
            return False
        return self._begin()

    def is_held(self) -> bool:
        """Whether it is still ours: a process suspended for long may have lost it."""
        holder = self._holder()
        return holder is not None and holder.get("token") == self._me["token"]

    def release(self) -> None:
        """Give it up, if it is still ours."""
        self._released.set()
        if self.is_held():
            self._path.unlink(missing_ok=True)

    def _begin(self) -> bool:
        self._released = threading.Event()
        threading.Thread(target=self._keep_touching, args=(self._released,), name="writer-lock", daemon=True).start()
        return True

    def _keep_touching(self, released: threading.Event) -> None:
        while not released.wait(TOUCH_SECONDS):
            with suppress(FileNotFoundError):  # taken over: is_held() tells the writer before its next drain
                os.utime(self._path)

    def _holder(self) -> Mapping[str, object] | None:
        try:
            holder = json.loads(self._path.read_text())
        except (FileNotFoundError, ValueError):
            return None
        return holder if isinstance(holder, dict) else None

    def _is_gone(self, holder: Mapping[str, object]) -> bool:
        if holder.get("host") == self._me["host"]:
            return process_start(int(str(holder["pid"]))) != holder["started"]
        return self._silent_seconds(self._path) > self._silence

    def _take_over(self, gone: Mapping[str, object]) -> bool:
        """Replace the lock of a holder that is gone; of several takers exactly one succeeds."""
        mutex = self._path.with_name(f".{self._path.name}.{gone['token']}.takeover")
        if not create_exclusively(mutex, ""):
            if self._silent_seconds(mutex) > self._silence:  # that taker died in turn
                mutex.unlink(missing_ok=True)
            return False
        try:
            holder = self._holder()
            if holder is None or holder["token"] != gone["token"]:  # somebody was faster
                return False
            replace_text(self._path, json.dumps(self._me))
            return True
        finally:
            mutex.unlink(missing_ok=True)

    def _silent_seconds(self, path: Path) -> float:
        """Seconds since `path` was touched, both read off the file server's clock."""
        probe = path.with_name(f".{path.name}.{self._me['token']}.clock")
        probe.touch()
        try:
            return probe.stat().st_mtime - path.stat().st_mtime
        except FileNotFoundError:
            return 0.0
        finally:
            probe.unlink(missing_ok=True)


def create_exclusively(path: Path, text: str) -> bool:
    """Make `path` with its whole content; False where it exists. Atomic also on NFS."""
    claim = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    claim.write_text(text)
    try:
        os.link(claim, path)
        return True
    except FileExistsError:
        return False
    finally:
        claim.unlink()


def replace_text(path: Path, text: str) -> None:
    """Give `path` new content; readers see the old or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    temporary.write_text(text)
    os.replace(temporary, path)


def process_start(pid: int) -> float | None:
    """When a living process began, which tells a reused pid; None where there is none, or a zombie."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None
