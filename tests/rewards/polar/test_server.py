"""The reward server: offline's scores, a bounded queue, and no wrong score when it is killed under load."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import urllib3

from athanor.rewards.polar import queueing
from athanor.rewards.polar.client import ScoringClient, ScoringError
from athanor.rewards.polar.model import marked_tokenizer, reward_model, write_reward_model
from athanor.rewards.polar.queueing import Full, ScoringQueue
from athanor.rewards.polar.scoring import Scorer
from athanor.rewards.polar.template import Item
from tests.rewards.polar.test_scoring import items

DEADLINE = 60  # seconds


@pytest.fixture(scope="module")
def folder(dense: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    marked, path = marked_tokenizer(dense, 128, fine_tuned=True), tmp_path_factory.mktemp("reward")
    model: Any = reward_model(dense, marked, seed=1)
    with torch.no_grad():
        model.score.weight *= 50
    write_reward_model(model, model.state_dict(), path, marked)
    return path


class Server:
    """A server of this machine, to kill and start again on its port."""

    def __init__(self, folder: Path, queue: int) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url, self._queue, self._folder = f"http://127.0.0.1:{self.port}", queue, folder
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "athanor.rewards.polar.server", "--model", str(self._folder), "--fingerprint", "abc"]
        self.process = subprocess.Popen([*command, "--port", str(self.port), "--queue", str(self._queue), "--batch", "8"])

    def ready(self) -> None:
        limit = time.monotonic() + DEADLINE
        while time.monotonic() < limit:
            assert self.process.poll() is None, "the server ended"
            try:
                if urllib3.request("GET", f"{self.url}/health", retries=False, timeout=1).status == 200:
                    return
            except urllib3.exceptions.HTTPError:
                threading.Event().wait(0.05)
        raise AssertionError("no server in time")

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    running = Server(folder, queue=32)
    try:
        running.ready()
        yield running
    finally:
        running.process.kill()
        running.process.wait()


def test_scores_are_those_of_offline_scoring(server: Server, folder: Path) -> None:
    some = items(60)
    client, offline = ScoringClient(server.url, "abc"), Scorer(folder).score_items(some)
    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(lambda begin: client.score(some[begin : begin + 3]), range(0, 60, 3)))
    found = [score for answer in answers for score in answer.scores]
    assert found == pytest.approx(offline, abs=1e-5)


def test_requests_that_can_never_be_answered_are_refused_at_once(server: Server) -> None:
    for body, status in ((b"{", 400), (b'{"items": [{"prompt": "a"}]}', 400), (b'{"items": []}', 400)):
        assert urllib3.request("POST", f"{server.url}/score", body=body, retries=False).status == status
    number = b'{"items": [{"prompt": "a", "reference": 1, "candidate": "b"}]}'
    assert urllib3.request("POST", f"{server.url}/score", body=number, retries=False).status == 400
    with pytest.raises(ScoringError, match=r"answered 413 .*33 items, and 32 may wait"):
        ScoringClient(server.url).score(items(33))
    with pytest.raises(ScoringError, match="serves model 'abc', wanted is 'xyz'"):
        ScoringClient(server.url, "xyz").score(items(1))


def test_metrics_count_what_was_asked(server: Server) -> None:
    def counted(name: str) -> float:
        text = urllib3.request("GET", f"{server.url}/metrics").data.decode()
        return next((float(line.split()[-1]) for line in text.splitlines() if line.startswith(name)), 0.0)

    before = {name: counted(name) for name in ("polar_items_total", 'polar_requests_total{status="200"}')}
    ScoringClient(server.url).score(items(5))
    assert counted("polar_items_total") == before["polar_items_total"] + 5
    assert counted('polar_requests_total{status="200"}') == before['polar_requests_total{status="200"}'] + 1
    assert counted('polar_request_seconds_bucket{le="+Inf"}') == counted("polar_request_seconds_count")
    assert counted("polar_queue_room_items") == 32


def test_full_server_says_when_to_ask_again_and_callers_get_their_scores(server: Server, folder: Path) -> None:
    """More callers than the queue has room for: some are sent away with 503, all have the right scores in the end."""
    some = items(32)
    offline = Scorer(folder).score_items(some)

    def raw(_: int) -> tuple[int, str]:
        body = b'{"items": [' + b",".join([b'{"prompt": "w1", "reference": "w2", "candidate": "w3"}'] * 32) + b"]}"
        response = urllib3.request("POST", f"{server.url}/score", body=body, retries=False, timeout=DEADLINE)
        return response.status, response.headers.get("Retry-After", "")

    with ThreadPoolExecutor(24) as threads:
        said = set(threads.map(raw, range(48)))
        answers = list(threads.map(lambda _: ScoringClient(server.url, retries=60).score(some), range(24)))
    assert said == {(200, ""), (503, "1")}
    assert all(answer.scores == pytest.approx(offline, abs=1e-5) for answer in answers)
    assert any(answer.retries for answer in answers)


def test_killed_under_load_gives_no_wrong_score_and_callers_see_a_retry(server: Server, folder: Path) -> None:
    some = items(300, seed=4)
    offline, client = Scorer(folder).score_items(some), ScoringClient(server.url, "abc")
    answered = threading.Semaphore(0)

    def ask(begin: int) -> Any:
        found = client.score(some[begin : begin + 3])
        answered.release()
        return found

    with ThreadPoolExecutor(4) as threads:
        waiting = [threads.submit(ask, begin) for begin in range(0, 300, 3)]
        for _ in range(20):
            assert answered.acquire(timeout=DEADLINE)
        server.kill()
        server.start()
        answers = [future.result(timeout=2 * DEADLINE) for future in waiting]
    assert [s for answer in answers for s in answer.scores] == pytest.approx(offline, abs=1e-5)
    assert any(answer.retries for answer in answers)


def test_server_that_stays_away_is_an_error_that_names_it() -> None:
    with pytest.raises(ScoringError, match=r"127\.0\.0\.1:9 gave no answer in 2 retries"):
        ScoringClient("http://127.0.0.1:9", retries=2).score([Item("a", "b", "c")])


def test_server_that_is_told_to_end_ends_well(server: Server) -> None:
    server.ready()
    server.process.terminate()
    assert server.process.wait(timeout=DEADLINE) in (0, -signal.SIGTERM)


def test_queue_takes_whole_requests_up_to_its_room_and_scores_them_together() -> None:
    gate, batches = threading.Event(), list[int]()

    def score(rows: Any) -> list[float]:
        gate.wait(DEADLINE)
        batches.append(len(rows))
        return [float(row[0]) for row in rows]

    queue = ScoringQueue(score, most_rows=6, rows_at_once=4)
    first = queue.put([[1]])
    while queue.rows:  # the first is being scored, and waits for the gate
        threading.Event().wait(0.001)
    later = [queue.put([[n], [n + 1]]) for n in (10, 20, 30)]
    with pytest.raises(Full, match="6 rows wait, 1 more are beyond 6"):
        queue.put([[9]])
    assert later[1].cancel(), "its caller has gone"
    gate.set()
    assert [f.result(DEADLINE) for f in (first, later[0], later[2])] == [[1.0], [10.0, 11.0], [30.0, 31.0]]
    queue.close()
    assert batches == [1, 4] and not queue.works and queue.rows == 0
    with pytest.raises(Full):
        queue.put([[1]])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_queue_that_is_stuck_in_a_batch_is_not_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queueing, "STUCK_SECONDS", 0.05)
    on = threading.Event()

    def score(rows: Any) -> list[float]:
        on.wait(DEADLINE)
        return [0.0] * len(rows)

    queue = ScoringQueue(score, 8, 8)
    waiting = queue.put([[1]])
    limit = time.monotonic() + DEADLINE
    while queue.works and time.monotonic() < limit:
        time.sleep(0.01)
    assert not queue.works
    on.set()
    assert waiting.result(DEADLINE) == [0.0] and queue.works and queue.scored == 1
    queue.close()


def test_queue_whose_thread_has_died_takes_nothing() -> None:
    def score(_rows: Any) -> list[float]:
        raise SystemExit

    queue = ScoringQueue(score, most_rows=8, rows_at_once=1)
    queue.put([[1]])
    queue._worker.join(DEADLINE)
    assert not queue.works
    with pytest.raises(Full):
        queue.put([[1]])


def test_queue_lives_on_when_a_batch_fails() -> None:
    def score(rows: Any) -> list[float]:
        if rows[0][0] < 0:
            raise ValueError("no number")
        return [1.0] * len(rows)

    queue = ScoringQueue(score, most_rows=8, rows_at_once=1)
    bad: Future[list[float]] = queue.put([[-1]])
    with pytest.raises(ValueError, match="no number"):
        bad.result(DEADLINE)
    assert queue.put([[1]]).result(DEADLINE) == [1.0]
    queue.close()
