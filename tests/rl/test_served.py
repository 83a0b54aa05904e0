"""Rollouts through a model server: the same tokens, a server that dies is started again, and nothing of it is left behind."""

import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from athanor.artifacts.run import StageError
from athanor.recipe.server_command import problem_with
from athanor.rl.rollouts.in_process import InProcessEngine
from athanor.rl.rollouts.sampling import Finish, Prompt, Sample, Sampling
from athanor.rl.rollouts.served import ServerEngine
from athanor.rl.rollouts.server import Server
from tests.rl.test_rollouts import END, folder, prompts

__all__ = ["folder", "prompts"]  # fixtures
COMMAND = f"{sys.executable} -m tests.rl.completions_server {{model}} {{port}} {{name}} {END}"
GREEDY = Sampling(temperature=0, max_new_tokens=20)
START_SECONDS = 120.0


@pytest.fixture
def asked(prompts: list[Prompt]) -> list[Prompt]:
    return [prompt for prompt in prompts if len(prompt.tokens) > 1]


@pytest.fixture
def server(folder: Path, tmp_path: Path) -> Iterator[Server]:
    server = Server(COMMAND, folder, tmp_path / "server.log", START_SECONDS)
    yield server
    server.stop()


def answers(engine: ServerEngine | InProcessEngine, prompts: list[Prompt], sampling: Sampling) -> dict[tuple[str, int], Sample]:
    return {(sample.prompt, sample.number): sample for sample in engine.generate(prompts, sampling)}


def test_served_answers_are_the_models_own(server: Server, folder: Path, asked: list[Prompt]) -> None:
    engine = ServerEngine(server, [END])
    found, expected = (answers(one, asked, GREEDY) for one in (engine, InProcessEngine(folder, [END])))
    assert found.keys() == expected.keys()
    for key, sample in expected.items():
        assert found[key].tokens == sample.tokens and found[key].finish is sample.finish
        assert found[key].log_probs == pytest.approx(sample.log_probs, abs=1e-5)
    drawn = answers(engine, asked, Sampling(samples=3, max_new_tokens=16, seed=9))
    assert len(drawn) == 3 * len(asked)
    assert drawn == answers(engine, asked[::-1], Sampling(samples=3, max_new_tokens=16, seed=9)), "a prompt has its own seed"
    assert drawn != answers(engine, asked, Sampling(samples=3, max_new_tokens=16, seed=10))
    child = server._child
    assert child is not None
    engine.close()
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)


def test_server_that_dies_is_started_again_and_no_answer_is_lost(folder: Path, asked: list[Prompt], tmp_path: Path) -> None:
    count = tmp_path / "starts"
    server = Server(f"{COMMAND} --dies-after 6 --count {count}", folder, tmp_path / "server.log", START_SECONDS)
    engine = ServerEngine(server, [END])
    try:
        found = answers(engine, asked, GREEDY)
    finally:
        engine.close()
    assert count.read_text().count("started") >= len(asked) / 6
    expected = answers(InProcessEngine(folder, [END]), asked, GREEDY)
    assert {key: sample.tokens for key, sample in found.items()} == {key: sample.tokens for key, sample in expected.items()}


def test_server_that_never_answers_is_given_up_by_name(folder: Path, asked: list[Prompt], tmp_path: Path) -> None:
    count = tmp_path / "starts"
    script = tmp_path / "dies.py"
    script.write_text(
        "import sys, http.server, os, pathlib\n"
        f"pathlib.Path({str(count)!r}).open('a').write('started\\n')\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self): self.send_response(200); self.send_header('Content-Length', '0'); self.end_headers()\n"
        "    def do_POST(self): os._exit(1)\n"
        "http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[2])), H).serve_forever()\n"
    )
    engine = ServerEngine(Server(f"{sys.executable} {script} {{model}} {{port}}", folder, tmp_path / "log", 30.0), [END])
    with pytest.raises(StageError, match="died 4 times without an answer between"):
        list(engine.generate(asked, GREEDY))
    engine.close()
    assert count.read_text().count("started") == 4


def test_what_a_server_refuses_ends_the_stage_with_its_words(server: Server) -> None:
    with pytest.raises(StageError, match=r"refuses prompt short: 400 .*one token is too little"):
        list(ServerEngine(server, [END]).generate([Prompt("short", (5,))], GREEDY))


def test_server_without_token_ids_is_refused(folder: Path, asked: list[Prompt], tmp_path: Path) -> None:
    server = Server(f"{COMMAND} --without token_ids", folder, tmp_path / "server.log", START_SECONDS)
    engine = ServerEngine(server, [END])
    with pytest.raises(StageError, match="lack token_ids or token_logprobs"):
        list(engine.generate(asked[:1], GREEDY))
    engine.close()


def test_command_that_ends_says_its_last_words(folder: Path, tmp_path: Path) -> None:
    command = f"{sys.executable} -c 'raise SystemExit(\"no GPU on port {{port}} for {{model}}\")'"
    with pytest.raises(StageError, match=r"ended with 1 before it was healthy: no GPU on port \d+ for /.*server.log"):
        Server(command, folder, tmp_path / "server.log", 30.0).start()
    with pytest.raises(StageError, match=r"cannot be started: .*no-such-server"):
        Server("/no-such-server {model} {port}", folder, tmp_path / "server.log", 30.0).start()


@pytest.mark.parametrize(("deaths", "comes"), [(2, True), (9, False)])
def test_server_that_is_killed_while_it_starts_is_started_again(folder: Path, tmp_path: Path, deaths: int, comes: bool) -> None:
    count, script = tmp_path / "starts", tmp_path / "killed.py"
    script.write_text(
        "import os, sys, http.server, pathlib\n"
        f"count = pathlib.Path({str(count)!r})\n"
        "count.open('a').write('started\\n')\n"
        f"if count.read_text().count('started') <= {deaths}: os.kill(os.getpid(), 9)\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self): self.send_response(200); self.send_header('Content-Length', '0'); self.end_headers()\n"
        "http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[2])), H).serve_forever()\n"
    )
    server = Server(f"{sys.executable} {script} {{model}} {{port}}", folder, tmp_path / "log", 30.0)
    if comes:
        server.start()
        assert server.is_running()
        server.stop()
    else:
        with pytest.raises(StageError, match="ended with -9 before it was healthy"):
            server.start()
    assert count.read_text().count("started") == (deaths + 1 if comes else 4)
    assert not server.is_running()


def test_server_that_is_stopped_while_it_starts_is_not_started_again(folder: Path, tmp_path: Path) -> None:
    count, script = tmp_path / "starts", tmp_path / "idle.py"
    script.write_text(f"import time\nopen({str(count)!r}, 'a').write('started ')\ntime.sleep(1000)\n")
    server = Server(f"{sys.executable} {script} {{model}} {{port}}", folder, tmp_path / "log", 60.0)
    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(server.start)
        while not count.exists():
            time.sleep(0.02)
        server.stop()
        with pytest.raises(StageError, match="ended with -15 before it was healthy"):
            starting.result(20)
    assert count.read_text().split() == ["started"] and not server.is_running()


def test_command_that_is_too_slow_is_ended(folder: Path, tmp_path: Path) -> None:
    server = Server("/bin/sleep 1000 {model} {port}", folder, tmp_path / "server.log", 30.0)
    with pytest.raises(StageError, match="ended with 1"):
        server.start()
    script = tmp_path / "idle.py"
    script.write_text("import time\ntime.sleep(1000)\n")
    server = Server(f"{sys.executable} {script} {{model}} {{port}}", folder, tmp_path / "server.log", 1.0)
    with pytest.raises(StageError, match=r"was not healthy after 1 s; raise the site's server_seconds"):
        server.start()
    assert not server.is_running()


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("vllm serve {model} --port {port}", ""),
        ("vllm serve {model} --port 8000", "does not say {port}, which the stage fills in"),
        ("vllm serve", "does not say {model} and {port}, which the stage fills in"),
        ("vllm serve {model} {port} {gpus}", "has {gpus}; a stage fills in {model}, {port} and {name} (write {{ for a brace)"),
        ("vllm serve {model} {port} 'x", "cannot be read: No closing quotation"),
        ("vllm serve {model", "cannot be read: expected '}' before end of string"),
    ],
)
def test_command_is_refused_before_anything_starts(command: str, problem: str) -> None:
    assert problem_with(command) == problem


def test_looping_answer_is_told_from_one_that_was_cut(server: Server) -> None:
    engine, prompt = ServerEngine(server, [END]), Prompt("p", (5, 6))
    choice = {"index": 0, "finish_reason": "length", "token_ids": [7, 8] * 20, "logprobs": {"token_logprobs": [-0.5] * 40}}
    assert engine._sample(prompt, choice).finish is Finish.LOOP
    choice |= {"token_ids": list(range(40))}
    assert engine._sample(prompt, choice).finish is Finish.LENGTH
