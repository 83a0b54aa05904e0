"""A model server for tests: OpenAI's completions over the in-process engine, one request after the other.

python -m tests.rl.completions_server MODEL PORT NAME [END] [--dies-after N --count FILE] [--without token_ids]
"""

import argparse
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from athanor.data.chat import ChatEncoder
from athanor.rl.rollouts.in_process import InProcessEngine
from athanor.rl.rollouts.sampling import Finish, Prompt, Sampling

parser = argparse.ArgumentParser()
parser.add_argument("model", type=Path)
parser.add_argument("port", type=int)
parser.add_argument("name")
parser.add_argument(
    "end",
    type=int,
    nargs="?",
    help="token that ends an answer, and prompts of one token are refused; the model's own unless given",
)
parser.add_argument("--dies-after", type=int, default=0)
parser.add_argument("--count", type=Path)
parser.add_argument("--without", default="")
options = parser.parse_args()
ends = [options.end] if options.end is not None else list(ChatEncoder(options.model).ends)
engine, lock = InProcessEngine(options.model, ends), threading.Lock()
if options.count:
    options.count.open("a").write("started\n")
answered = 0


def reload(request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Read the folder again, where it is the one that is served."""
    global engine
    if request.get("model_path") != str(options.model):
        return 404, {"error": "another folder"}
    engine = InProcessEngine(options.model, ends)
    return 200, {}


def completion(request: dict[str, Any]) -> dict[str, Any]:
    """The answer to a request, whose seed stands for the prompt's id."""
    assert request["model"] == options.name and request["stop_token_ids"] == ends and request["return_token_ids"]
    sampling = Sampling(request["n"], request["temperature"], request["top_p"], request.get("top_k", 0), request["max_tokens"])
    choices = []
    for sample in engine.generate([Prompt(str(request["seed"]), tuple(request["prompt"]))], sampling):
        reason = "stop" if sample.finish is Finish.STOP else "length"
        logprobs = {"token_logprobs": sample.log_probs}
        choice = {"index": sample.number, "finish_reason": reason, "token_ids": sample.tokens, "logprobs": logprobs}
        choices.append({name: value for name, value in choice.items() if name != options.without})
    return {"choices": choices}


class Handler(BaseHTTPRequestHandler):
    """GET /health, POST /v1/completions."""

    def do_GET(self) -> None:
        self._answer(200 if self.path == "/health" else 404, {})

    def do_POST(self) -> None:
        global answered
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with lock:
            answered += 1
            if self.path == "/reload":
                self._answer(*reload(request))
                return
            if options.dies_after and answered > options.dies_after:
                os._exit(9)
            if options.end is not None and len(request["prompt"]) == 1:
                self._answer(400, {"error": "one token is too little"})
                return
            found = completion(request)
        self._answer(200, found)

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Nothing."""


ThreadingHTTPServer(("127.0.0.1", options.port), Handler).serve_forever()
