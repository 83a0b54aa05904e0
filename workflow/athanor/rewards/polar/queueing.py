"""What waits to be scored: a bounded queue, emptied by one thread in batches of whatever has come together meanwhile."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future

STUCK_SECONDS = 600.0  # a batch: its device has hung
Row = Sequence[int]
Score = Callable[[Sequence[Row]], list[float]]


class Full(Exception):
    """There is no room for these rows now: ask again later."""


class ScoringQueue:
    """Requests of rows (token ids); each is answered whole or not at all."""

    def __init__(self, score: Score, most_rows: int, rows_at_once: int) -> None:
        """`most_rows` may wait; a batch ends with the request that reaches `rows_at_once`."""
        self._score, self.most_rows, self._at_once = score, most_rows, rows_at_once
        self._waiting: deque[tuple[Sequence[Row], Future[list[float]]]] = deque()
        self._rows = 0
        self.scored = 0  # rows, since it began
        self._began = 0.0  # the batch that is scored; 0 between two
        self._closing = False
        self._changed = threading.Condition()
        self._worker = threading.Thread(target=self._work, name="scoring", daemon=True)
        self._worker.start()

    @property
    def rows(self) -> int:
        """Rows that wait now."""
        return self._rows

    @property
    def works(self) -> bool:
        """Whether the thread that scores is alive, not stuck in a batch, and takes requests."""
        began = self._began
        stuck = bool(began) and time.monotonic() - began > STUCK_SECONDS
        return self._worker.is_alive() and not self._closing and not stuck

    def put(self, rows: Sequence[Row]) -> "Future[list[float]]":
        """Scores to come, of a request of `rows`. Raises Full where not all of them have room."""
        with self._changed:
            if not self.works or self._rows + len(rows) > self.most_rows:
                raise Full(f"{self._rows} rows wait, {len(rows)} more are beyond {self.most_rows}")
            future: Future[list[float]] = Future()
            self._waiting.append((rows, future))
            self._rows += len(rows)
            self._changed.notify()
            return future

    def close(self) -> None:
        """Take no more, score what waits, end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._worker.join()

    def _work(self) -> None:
        while batch := self._take():
            rows = [row for some, _ in batch for row in some]
            self._began = time.monotonic()
            try:
                scores = self._score(rows)
            except Exception as error:  # it belongs to these requests; the next ones may be well
                for _, future in batch:
                    future.set_exception(error)
                continue
            finally:
                self._began = 0.0
            self.scored += len(rows)
            begin = 0
            for some, future in batch:
                future.set_result(scores[begin : begin + len(some)])
                begin += len(some)

    def _take(self) -> list[tuple[Sequence[Row], "Future[list[float]]"]]:
        """The requests of the next batch, without those that nobody waits for; none when there will be no more."""
        batch: list[tuple[Sequence[Row], Future[list[float]]]] = []
        with self._changed:
            while not batch:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return []
                taken = 0
                while self._waiting and taken < self._at_once:
                    rows, future = self._waiting.popleft()
                    self._rows -= len(rows)
                    if future.set_running_or_notify_cancel():
                        batch.append((rows, future))
                        taken += len(rows)
        return batch
