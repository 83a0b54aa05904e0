"""What the reward server counts, in the text format that Prometheus reads (version 0.0.4)."""

import threading
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # edges of the histogram


@dataclass
class Metrics:
    """Requests by status, items that were scored, and the seconds that answered requests took."""

    requests: Counter[int] = field(default_factory=Counter)
    items: int = 0
    seconds: float = 0.0
    _buckets: list[int] = field(default_factory=lambda: [0] * (len(SECONDS) + 1))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, status: int, items: int, seconds: float) -> None:
        """One request: its HTTP status, items scored for it, and how long it took."""
        with self._lock:
            self.requests[status] += 1
            self.items += items
            if items:
                self.seconds += seconds
                self._buckets[bisect_left(SECONDS, seconds)] += 1

    def text(self, waiting: int, most: int) -> str:
        """Everything, with the queue's length and room beside it (items)."""
        with self._lock:
            lines = ["# TYPE polar_requests_total counter"]
            lines += [f'polar_requests_total{{status="{status}"}} {count}' for status, count in sorted(self.requests.items())]
            lines += ["# TYPE polar_items_total counter", f"polar_items_total {self.items}"]
            lines += ["# TYPE polar_queue_items gauge", f"polar_queue_items {waiting}"]
            lines += ["# TYPE polar_queue_room_items gauge", f"polar_queue_room_items {most}"]
            lines += ["# TYPE polar_request_seconds histogram"]
            total = 0
            for edge, count in zip([*map(str, SECONDS), "+Inf"], self._buckets, strict=True):
                total += count
                lines.append(f'polar_request_seconds_bucket{{le="{edge}"}} {total}')
            lines += [f"polar_request_seconds_sum {self.seconds:.6f}", f"polar_request_seconds_count {total}"]
        return "\n".join(lines) + "\n"
