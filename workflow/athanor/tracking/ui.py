"""MLflow's own pages over a store: a server on this machine's loopback for as long as somebody looks."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

from athanor.tracking.destination import Destination

HOST = "127.0.0.1"
START_SECONDS = 60.0
STOP_SECONDS = 10.0
PORTS_TRIED = 50


class UiError(Exception):
    """The server cannot be shown: why, and the way out."""


class UiServer:
    """A context manager around `mlflow server` with one worker; `address` once it answers."""

    def __init__(self, destination: Destination, port: int) -> None:
        self._to, self._log = destination, destination.store / "mlflow" / "ui.log"
        self.port = free_port(port)
        self.address = f"http://{HOST}:{self.port}"

    def __enter__(self) -> "UiServer":
        self._to.prepare()
        command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(self.port), "--workers", "1"]
        environment = {
            **os.environ,
            "MLFLOW_BACKEND_STORE_URI": self._to.uri,  # not on the command line: it may hold a password
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # half of the processes; nothing here uses it
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
        }
        if self._to.artifact_root is not None:
            environment["MLFLOW_DEFAULT_ARTIFACT_ROOT"] = self._to.artifact_root.as_uri()
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        try:
            self._await_answer()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()

    def wait(self) -> int:
        """Block until the server ends by itself; its exit code."""
        return self._process.wait()

    def _await_answer(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise UiError(f"mlflow server ended with code {self._process.returncode}; see {self._log}")
            try:
                with urllib.request.urlopen(f"{self.address}/health", timeout=2):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise UiError(f"mlflow server did not answer within {START_SECONDS:.0f} s; see {self._log}")

    def _stop(self) -> None:
        """End the server and its worker: they are a process group of their own."""
        for signal_number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, signal_number)
                self._process.wait(STOP_SECONDS)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
        self._process.wait()


def serve(store: Path, port: int = 5000, uri: str = "") -> int:
    """Show the store's MLflow until Ctrl-C. With a tracking server in the site file, only say where it is."""
    destination = Destination(store, uri)
    if destination.artifact_root is None:
        print(f"this site's MLflow is {destination.shown}")
        return 0
    try:
        with UiServer(destination, port) as server:
            print(f"MLflow: {server.address}    (Ctrl-C ends it)")
            print(f"from your own machine: ssh -L {server.port}:{HOST}:{server.port} {socket.gethostname()}", flush=True)
            return server.wait()
    except KeyboardInterrupt:
        return 0
    except UiError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def free_port(wanted: int) -> int:
    """`wanted`, or the next port that nobody listens on. Raises UiError when fifty in a row are taken."""
    for port in range(wanted, wanted + PORTS_TRIED):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
                return int(probe.getsockname()[1])
            except OSError:
                continue
    raise UiError(f"ports {wanted} to {wanted + PORTS_TRIED - 1} are all taken; give another with --port")
