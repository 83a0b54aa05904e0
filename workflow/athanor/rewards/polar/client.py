"""Asks the reward server, and asks again where it is full, gone or just starting: a score follows from the item alone."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from http import HTTPStatus

import urllib3

from athanor.rewards.http import BUSY, patient_pool
from athanor.rewards.polar.template import Item

LONGEST_WAIT_SECONDS = 5.0
CONNECTIONS = 16  # kept for the threads that share a client


class ScoringError(Exception):
    """There are no scores: what was said, and what to do."""


class Away(ScoringError):
    """Nobody answered, or only that there is no room."""


@dataclass(frozen=True)
class Answered:
    """The scores of a request, and how often it was asked again."""

    scores: tuple[float, ...]
    retries: int


class ScoringClient:
    """One server at `url`; `model` is the fingerprint that every answer must carry (empty: any). For threads to share."""

    def __init__(self, url: str, model: str = "", retries: int = 30, timeout_seconds: float = 60.0) -> None:
        self._url, self._model = url.rstrip("/"), model
        self._retries = retries
        self._pool = patient_pool(BUSY, retries, LONGEST_WAIT_SECONDS, timeout_seconds, CONNECTIONS)

    def score(self, items: Sequence[Item]) -> Answered:
        """The items' scores, in their order. Raises ScoringError where the server refuses or has another model, Away."""
        body = json.dumps({"items": [asdict(item) for item in items]}).encode()
        headers = {"Content-Type": "application/json"}
        try:
            response = self._pool.request("POST", f"{self._url}/score", body=body, headers=headers)
        except urllib3.exceptions.HTTPError as error:
            raise Away(f"{self._url} gave no answer in {self._retries} retries ({error}); start it") from error
        if response.status != HTTPStatus.OK:
            said = response.data.decode(errors="replace")[:300]
            kind = Away if response.status in BUSY else ScoringError
            raise kind(f"{self._url} answered {response.status} {said}; see its log")
        found = json.loads(response.data)
        if self._model and found["model"] != self._model:
            raise ScoringError(f"{self._url} serves model {found['model']!r}, wanted is {self._model!r}; start the other")
        if len(found["scores"]) != len(items):
            raise ScoringError(f"{self._url} gave {len(found['scores'])} scores for {len(items)} items")
        return Answered(tuple(found["scores"]), len(response.retries.history) if response.retries else 0)
