"""The writer as a process beside the driver: started with it, ended by it, and by itself when the driver is gone."""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from athanor.tracking.destination import Destination
from athanor.tracking.lock import process_start, replace_text
from athanor.tracking.mlflow_adapter import TrackingError
from athanor.tracking.writer import Summary, Writer, summary, to_stderr

POLL_SECONDS = 2.0
LOOK_SECONDS = 0.25  # how often a waiting writer looks whether its driver has ended: the driver waits for it
MAX_BACKOFF_SECONDS = 60.0
STOP_SECONDS = 60.0  # what the driver grants the last drain
NICENESS = 10  # training on the same machine comes first
URI_VARIABLE = "MLFLOW_TRACKING_URI"  # keeps a password off the process list


def follow(writer: Writer, ending: threading.Event, is_over: Callable[[], bool], poll_seconds: float) -> bool:
    """Drain until `ending` is set or `is_over()`, then once more. Returns whether that last drain was complete.

    Another writer of the campaign: stand by. MLflow away: try again after 2, 4 … 60 seconds; training notices nothing.
    """
    pause, first = poll_seconds, True
    while True:
        last, problem = ending.is_set() or is_over(), ""
        try:
            if writer.begin():
                writer.drain_once((lambda: False) if last else ending.is_set, everything=first or last)
                first, pause = False, poll_seconds
                if last:
                    writer.end()
        except TrackingError as error:
            problem, pause = str(error), min(MAX_BACKOFF_SECONDS, 2 * pause)
            to_stderr(f"MLflow did not answer: {problem}")
        if last:
            return not problem
        _wait(pause, poll_seconds, ending, is_over)


def _wait(seconds: float, poll_seconds: float, ending: threading.Event, is_over: Callable[[], bool]) -> None:
    while seconds > 0 and not ending.wait(min(seconds, poll_seconds, LOOK_SECONDS)) and not is_over():
        seconds -= min(poll_seconds, LOOK_SECONDS)


class WriterProcess:
    """Handle of a running writer."""

    def __init__(self, process: "subprocess.Popen[bytes]", stop_file: Path, summarize: Callable[[], Summary]) -> None:
        self._process, self._stop_file, self._summarize = process, stop_file, summarize

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def stop(self, timeout: float = STOP_SECONDS) -> Summary:
        """Ask for the last drain, wait for it up to `timeout` seconds, and say how far MLflow is.

        A writer that does not come to an end (its server hangs) is killed: what it did not bring stays in the spools.
        """
        self._stop_file.touch()  # no signal: one that is still starting would die of it
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stop_file.unlink(missing_ok=True)
        return self._summarize()


def start_writer_process(
    store: Path,
    campaign: str,
    artifacts: Sequence[str],
    uri: str = "",
    *,
    follow_pid: int | None = None,
    poll_seconds: float = POLL_SECONDS,
) -> WriterProcess:
    """Start the writer of a campaign; it follows process `follow_pid` (this one by default) to its end.

    `artifacts` are store-relative folders, upstreams first. Its messages go to STORE/tracking/CAMPAIGN/writer.log.
    """
    destination = Destination(store, uri)
    folder = destination.folder(campaign)
    folder.mkdir(parents=True, exist_ok=True)
    followed = follow_pid or os.getpid()
    own = uuid.uuid4().hex
    wanted, stop = folder / f"artifacts-{own}.json", folder / f"stop-{own}"
    replace_text(wanted, json.dumps(list(artifacts)))
    command = [sys.executable, "-m", "athanor.tracking.writer", "--store", str(destination.store)]
    command += ["--campaign", campaign, "--artifacts", str(wanted), "--follow-pid", str(followed)]
    command += ["--poll-seconds", str(poll_seconds), "--stop-file", str(stop)]
    source = str(Path(__file__).parents[2])
    path = os.pathsep.join([source, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, URI_VARIABLE: uri}
    with open(folder / "writer.log", "ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,  # Ctrl-C in the terminal is the driver's alone
        )
    return WriterProcess(process, stop, lambda: summary(store, campaign, artifacts, uri))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the writer. Returns 0 when its last drain was complete, 1 when MLflow did not answer."""
    parser = argparse.ArgumentParser(prog="python -m athanor.tracking.writer", description=__doc__)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--campaign", required=True)
    parser.add_argument("--artifacts", type=Path, required=True, help="JSON list of store-relative folders; its own")
    parser.add_argument("--uri", default=os.environ.get(URI_VARIABLE, ""), help=f"else ${URI_VARIABLE}, else sqlite")
    parser.add_argument("--follow-pid", type=int, required=True)
    parser.add_argument("--stop-file", type=Path, required=True, help="ends the writer when it appears")
    parser.add_argument("--poll-seconds", type=float, default=POLL_SECONDS)
    arguments = parser.parse_args(argv)

    os.environ.pop(URI_VARIABLE, None)  # the adapter is told; MLflow itself must not guess
    os.nice(NICENESS)
    ending = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ending.set())
    followed = process_start(arguments.follow_pid)

    def is_over() -> bool:
        return arguments.stop_file.exists() or followed is None or process_start(arguments.follow_pid) != followed

    artifacts = json.loads(arguments.artifacts.read_text())
    writer = Writer(Destination(arguments.store, arguments.uri), arguments.campaign, artifacts, to_stderr)
    try:
        complete = follow(writer, ending, is_over, arguments.poll_seconds)
    finally:
        writer.release()
        arguments.artifacts.unlink(missing_ok=True)
        arguments.stop_file.unlink(missing_ok=True)
    if not complete:
        to_stderr(f"behind: {summary(arguments.store, arguments.campaign, artifacts, arguments.uri)}")
        to_stderr("the spools have everything; `athanor track sync` brings it")
    return 0 if complete else 1
