"""Rewards over HTTP: `python -m athanor.rewards.polar.server --model FOLDER --port PORT`.

    POST /score    {"items": [{"prompt", "reference", "candidate"}, …]}  →  {"model": fingerprint, "scores": [number, …]}
    GET  /health   200 while it takes requests, 503 while it ends or where the scoring thread has died or hangs
    GET  /metrics  Prometheus' text format

A request is answered whole or not at all. One that finds no room in the queue gets 503 and Retry-After, so memory and waiting
are bounded; a score follows from the item alone, so asking again is always safe. It has no authentication: bind it to loopback,
or to a cluster's inner network.
"""

import argparse
import asyncio
import json
import time
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from athanor.rewards.polar.metrics import CONTENT_TYPE, Metrics
from athanor.rewards.polar.queueing import Full, ScoringQueue
from athanor.rewards.polar.scoring import Scorer
from athanor.rewards.polar.template import Item

RETRY_AFTER_SECONDS = 1
MOST_BYTES = 64 * 2**20  # of one request
FIELDS = ("prompt", "reference", "candidate")


class Refused(Exception):
    """A request that can never be answered: its HTTP status and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


def application(scorer: Scorer, fingerprint: str, most_items: int, items_at_once: int) -> Starlette:
    """The ASGI application; `most_items` may wait, about `items_at_once` are scored together."""
    queue, metrics = ScoringQueue(scorer.score, most_items, items_at_once), Metrics()

    async def score(request: Request) -> Response:
        began = time.perf_counter()
        response, items = await _answer(request, scorer, queue, fingerprint)
        metrics.count(response.status_code, items, time.perf_counter() - began)
        return response

    async def health(_request: Request) -> Response:
        said = {"model": fingerprint, "waiting": queue.rows, "scored": queue.scored, "works": queue.works}
        return JSONResponse(said, 200 if queue.works else 503)

    async def measured(_request: Request) -> Response:
        return PlainTextResponse(metrics.text(queue.rows, queue.most_rows), media_type=CONTENT_TYPE)

    routes = [Route("/score", score, methods=["POST"]), Route("/health", health), Route("/metrics", measured)]
    found = Starlette(routes=routes)
    found.state.queue = queue
    return found


async def _answer(request: Request, scorer: Scorer, queue: ScoringQueue, fingerprint: str) -> tuple[Response, int]:
    """The response, and how many items were scored for it."""
    try:
        items = _items(await _body(request), queue.most_rows)
        rows = await asyncio.get_running_loop().run_in_executor(None, lambda: [scorer.encode(item) for item in items])
        scores = await asyncio.wrap_future(queue.put(rows))
    except Refused as refused:
        return JSONResponse({"error": str(refused)}, refused.status), 0
    except Full as full:
        return JSONResponse({"error": str(full)}, 503, {"Retry-After": str(RETRY_AFTER_SECONDS)}), 0
    except (ValueError, RuntimeError) as error:  # no number, out of memory: the server lives on
        return JSONResponse({"error": f"scoring failed: {error}"}, 500), 0
    return JSONResponse({"model": fingerprint, "scores": scores}), len(scores)


async def _body(request: Request) -> bytes:
    """All of it. Raises Refused beyond MOST_BYTES, before the rest is read."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            raise Refused(413, f"more than {MOST_BYTES} bytes; send fewer items at once")
    return bytes(body)


def _items(body: bytes, most: int) -> list[Item]:
    """Raises Refused for anything but a list of items that could ever find room."""
    try:
        rows: Any = json.loads(body)["items"]
        items = [Item(**{name: row[name] for name in FIELDS}) for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(400, f'not {{"items": [{{"prompt", "reference", "candidate"}}, …]}}: {error!r}') from error
    if not items or not all(isinstance(getattr(item, name), str) for item in items for name in FIELDS):
        raise Refused(400, "no items, or a field that is not text")
    if len(items) > most:
        raise Refused(413, f"{len(items)} items, and {most} may wait in all; send fewer at once")
    return items


def main() -> None:
    """Serve until SIGTERM or SIGINT, then answer what waits and end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--fingerprint", default="", help="of the model's artifact: goes with every answer")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--queue", type=int, default=1024, metavar="ITEMS", help="that may wait; beyond it callers get 503")
    parser.add_argument("--batch", type=int, default=64, metavar="ITEMS", help="about as many are scored together")
    arguments = parser.parse_args()
    found = application(Scorer(arguments.model), arguments.fingerprint, arguments.queue, arguments.batch)
    uvicorn.run(found, host=arguments.host, port=arguments.port, log_level="warning", access_log=False)
    found.state.queue.close()


if __name__ == "__main__":
    main()
