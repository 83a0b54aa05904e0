"""The reward model behind a server that the ranks of a node share: a GPU holds it once. It is started again when it dies."""

import json
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import torch.distributed as dist

from athanor.artifacts.run import StageError, StageRun, node_name
from athanor.recipe.site import Site
from athanor.rewards.polar.client import Away, ScoringClient, ScoringError
from athanor.rewards.polar.template import Item
from athanor.rl.rollouts.server import Server

ITEMS_AT_ONCE = 64  # of a rank; the server's queue takes more
TRIES = 8  # of a request before it is asked whether the server is given up
LOOK_SECONDS = 1.0
SICK_LOOKS = 5  # in a row without health, then it is started again
DEATHS = 4  # without an answer between; one more is no accident
LOG = "reward-server-{node}.log"  # below the stage's folder


class RewardServer:
    """Of one rank. All ranks make theirs together; the first of each node keeps the node's server."""

    def __init__(self, stage: StageRun, model: Path, fingerprint: str) -> None:
        """`model`: the reward model's folder. Raises StageError where its server cannot be started."""
        keeper, trouble = None, ""
        self._seconds = float(stage.site.server_seconds if stage.site else Site().server_seconds)
        if _is_first_of_its_node():
            keeper = Keeper(model, fingerprint, stage.folder / LOG.format(node=node_name()), self._seconds)
            try:
                keeper.start()
            except StageError as error:
                trouble = str(error)
        self._keeper = keeper
        there: list[tuple[str, str, str] | None] = [None] * dist.get_world_size()
        dist.all_gather_object(there, (node_name(), keeper.url if keeper else "", trouble))
        found = [one for one in there if one is not None]
        if troubles := [said for _, _, said in found if said]:
            self.close()
            raise StageError(f"the reward model's server: {troubles[0]}")
        url = next(url for node, url, _ in found if node == node_name() and url)
        self._client = ScoringClient(url, fingerprint, retries=TRIES, timeout_seconds=self._seconds)

    def score_items(self, items: Sequence[Item]) -> list[float]:
        """The reward of each item. Raises StageError where the server stays away."""
        scores: list[float] = []
        for first in range(0, len(items), ITEMS_AT_ONCE):
            scores += self._scores(items[first : first + ITEMS_AT_ONCE])
        return scores

    def _scores(self, items: Sequence[Item]) -> tuple[float, ...]:
        """It may load its model between two answers."""
        deadline = time.monotonic() + self._seconds
        while True:
            try:
                return self._client.score(items).scores
            except Away as error:
                trouble = self._keeper.trouble if self._keeper else ""
                if trouble or time.monotonic() > deadline:
                    raise StageError(f"the reward model's server: {trouble or error}") from error
            except ScoringError as error:
                raise StageError(f"the reward model's server: {error}") from error

    def close(self) -> None:
        """End the server, where this rank keeps it."""
        if self._keeper is not None:
            self._keeper.stop()


class Keeper:
    """Starts the server of this node, and starts it again on the same port when it dies or falls ill."""

    def __init__(self, model: Path, fingerprint: str, log: Path, start_seconds: float) -> None:
        command = (
            f"{sys.executable} -m athanor.rewards.polar.server --model {{model}} --port {{port}} --fingerprint {fingerprint}"
        )
        self._server = Server(command, model, log, start_seconds)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="reward-server", daemon=True)
        self._deaths = 0
        self.trouble = ""

    @property
    def url(self) -> str:
        """Where it is asked."""
        return self._server.url

    def start(self) -> None:
        """Until it is healthy. Raises StageError."""
        self._server.start()
        self._thread.start()

    def stop(self) -> None:
        """End it."""
        self._over.set()
        self._server.stop()  # where it is just being started, that ends by this
        if self._thread.is_alive():
            self._thread.join()
        self._server.stop()

    def _watch(self) -> None:
        sick = 0
        while not self._over.wait(LOOK_SECONDS):
            health = self._server.health()
            sick = sick + 1 if health is None else 0
            if health is not None and json.loads(health)["scored"]:
                self._deaths = 0  # it is no server that only ever dies
            if self._server.is_running() and sick < SICK_LOOKS:
                continue
            self._deaths += 1
            if self._deaths > DEATHS:
                self.trouble = f"it died {self._deaths} times without an answer between; see {self._server.log}"
                return
            print(f"the reward model's server is {'ill' if self._server.is_running() else 'dead'}: started again", flush=True)
            try:
                self._server.start(keep_port=True)
            except StageError as error:  # that is one more death
                print(f"the reward model's server: {error}", flush=True)
            sick = 0


def _is_first_of_its_node() -> bool:
    nodes: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(nodes, node_name())
    return nodes.index(node_name()) == dist.get_rank()
