"""Rollouts by a model server through OpenAI's completions: prompts and answers go as token ids, many prompts at once."""

import itertools
import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from typing import Any

import requests

from athanor.artifacts.run import StageError
from athanor.rl.rollouts.sampling import Finish, Prompt, Sample, Sampling, loops
from athanor.rl.rollouts.server import MODEL_NAME, Server

PROMPTS_AT_ONCE = 32  # requests under way; the server batches them
TRIES = 4  # of one prompt, at a server that is healthy
DEATHS_IN_A_ROW = 3  # without an answer between; one more is no accident
CONNECT_SECONDS, ANSWER_SECONDS = 5.0, 3600.0


class ServerEngine:
    """Asks a server; starts it at the first question, and again when it dies."""

    def __init__(self, server: Server, ends: Sequence[int]) -> None:
        """`ends`: tokens that end an answer."""
        self._server, self._ends = server, list(ends)
        self._lock = threading.Lock()
        self._started, self._deaths = 0, 0

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Sample]:
        """Every sample of every prompt, as they come. Raises StageError where the server refuses, or keeps dying."""
        if not self._started:
            self._restart(0)
        done: queue.SimpleQueue[list[Sample] | BaseException] = queue.SimpleQueue()
        given_up = threading.Event()

        def ask(prompt: Prompt) -> None:
            try:
                done.put([] if given_up.is_set() else self._ask(prompt, sampling))
            except BaseException as error:  # told to whoever waits
                given_up.set()
                done.put(error)

        with ThreadPoolExecutor(PROMPTS_AT_ONCE) as pool:
            for prompt in prompts:
                pool.submit(ask, prompt)
            try:
                for _ in prompts:
                    found = done.get()
                    if isinstance(found, BaseException):
                        raise found
                    yield from found
            finally:
                given_up.set()

    def reload(self, told: Sequence[str]) -> None:
        """Answer with the weights that the server's folder has now. Raises StageError where it does not read them."""
        if self._started:  # else it has yet to read any
            self._server.reload(told)

    def close(self) -> None:
        """End the server."""
        self._server.stop()

    def _ask(self, prompt: Prompt, sampling: Sampling) -> list[Sample]:
        for tries in itertools.count(1):
            started = self._started
            try:
                response = requests.post(
                    f"{self._server.url}/v1/completions",
                    json=self._request(prompt, sampling),
                    timeout=(CONNECT_SECONDS, ANSWER_SECONDS),
                )
                if response.status_code < 500:
                    break
                trouble = f"{response.status_code} {response.text[:200]}"
            except requests.RequestException as error:
                trouble = str(error)
            if not (self._server.is_running() and self._server.is_healthy()):
                self._restart(started)
            elif tries >= TRIES:
                raise StageError(f"the model server is healthy and does not answer prompt {prompt.id}: {trouble}")
        if not response.ok:
            raise StageError(f"the model server refuses prompt {prompt.id}: {response.status_code} {response.text[:500]}")
        samples = [self._sample(prompt, choice) for choice in response.json()["choices"]]
        if len(samples) != sampling.samples:
            raise StageError(f"the model server gave {len(samples)} answers to prompt {prompt.id}, asked were {sampling.samples}")
        self._deaths = 0
        return samples

    def _restart(self, seen: int) -> None:
        """Start the server again, unless another thread has since it was `seen`."""
        with self._lock:
            if self._started != seen:
                return
            if self._deaths <= DEATHS_IN_A_ROW:  # else this thread comes to know of the last one later than another
                self._deaths += seen > 0
            if self._deaths > DEATHS_IN_A_ROW:
                raise StageError(f"the model server died {self._deaths} times without an answer between; see its log")
            self._server.start()
            self._started += 1

    def _request(self, prompt: Prompt, sampling: Sampling) -> dict[str, Any]:
        """A seed of its own for every prompt: where the server keeps to it, answers do not depend on what else is asked."""
        seed = blake2b(f"{sampling.seed}\0{prompt.id}".encode(), digest_size=4).digest()
        return {
            "model": MODEL_NAME,
            "prompt": list(prompt.tokens),
            "n": sampling.samples,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            **({"top_k": sampling.top_k} if sampling.top_k else {}),
            "max_tokens": sampling.max_new_tokens,
            "seed": int.from_bytes(seed, "little") >> 1,
            "logprobs": 0,  # of the tokens that were drawn alone
            "stop_token_ids": self._ends,
            "return_token_ids": True,
        }

    def _sample(self, prompt: Prompt, choice: dict[str, Any]) -> Sample:
        tokens, log_probs = choice.get("token_ids"), (choice.get("logprobs") or {}).get("token_logprobs")
        if not tokens or not log_probs or len(tokens) != len(log_probs):
            raise StageError(
                "the model server's answers lack token_ids or token_logprobs, which are kept with every sample; vLLM 0.10 and "
                "later have both (return_token_ids)"
            )
        stopped = choice["finish_reason"] == "stop"
        finish = Finish.STOP if stopped else Finish.LOOP if loops(tokens) else Finish.LENGTH
        return Sample(prompt.id, int(choice["index"]), tuple(tokens), tuple(log_probs), finish)
