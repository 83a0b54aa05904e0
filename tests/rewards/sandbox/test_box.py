"""What a hostile answer may try, and that nothing comes of it."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from athanor.rewards.sandbox.box import Outcome, Sandbox
from athanor.rewards.sandbox.isolation import Isolation, find_isolation
from athanor.rewards.sandbox.worker import SCRATCH
from tests.rewards.sandbox.walls import needs_walls

NONE = Isolation((), "for a test")


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with Sandbox() as one:
        yield one


def expression(box: Sandbox, text: str, seconds: float = 2.0) -> Outcome:
    return box.call("builtins", "eval", text, seconds=seconds)


@pytest.mark.parametrize("isolation", [find_isolation(), NONE], ids=["walls", "none"])
def test_function_is_called_and_its_value_comes_back(isolation: Isolation) -> None:
    with Sandbox(["json"], isolation) as box:
        assert box.call("json", "loads", '{"a": [1, null]}', seconds=2.0) == Outcome({"a": [1, None]})
        assert box.call("builtins", "len", "é" * 10**6, seconds=2.0).value == 10**6
        assert "JSONDecodeError" in box.call("json", "loads", "{", seconds=2.0).error
        assert "AttributeError" in box.call("json", "nothing", seconds=2.0).error
        assert box.started == 1


@pytest.mark.parametrize("isolation", [find_isolation(), NONE], ids=["walls", "none"])
@pytest.mark.parametrize(
    ("attack", "outcome"),
    [
        ("while_true()", "out of time"),
        ("__import__('time').sleep(60)", "out of time"),
        ("len(bytearray(3 * 2**30))", "MemoryError"),
        ("'x' * 10**7", "too much output"),
        ("__import__('os')._exit(0)", "no reply, exit code 0"),
        ("__import__('os').kill(__import__('os').getpid(), 11)", "signal 11"),
        ("eval('(' * 200)", "SyntaxError"),
        ("object()", "no reply"),
    ],
)
def test_call_that_gives_no_value_says_how_it_ended(isolation: Isolation, attack: str, outcome: str) -> None:
    seconds = 1.0 if outcome == "out of time" else 20.0  # which a busy machine does not need
    with Sandbox((), isolation) as box:
        found = expression(box, attack.replace("while_true()", "[0 for _ in iter(int, 1)]"), seconds=seconds)
        assert outcome in found.error + found.ended and not found.came
        assert expression(box, "6 * 7") == Outcome(42)


@needs_walls
@pytest.mark.parametrize(
    "attack",
    [
        "open('/etc/passwd').read()",
        "open('/etc/hostname').read()",
        f"open({str(Path(__file__))!r}).read()",
        "__import__('pathlib').Path('/tmp/it').write_text('was here')",
        "__import__('pathlib').Path('/.scratch/it').write_text('was here')",
        "open('/dev/shm/it', 'w').write('was here')",
        "open('/usr/it', 'w').write('was here')",
        "open(__import__('sys').prefix + '/it', 'w').write('was here')",
        "open('/it', 'w').write('was here')",
        "__import__('os').mkdir('/home')",
        "open('/proc/1/environ').read()",
        "__import__('socket').create_connection(('127.0.0.1', PORT), 1)",
        "__import__('socket').create_connection(('192.0.2.1', 80), 1)",
        "__import__('ctypes').CDLL(None, use_errno=True).mount(b'none', b'/tmp', b'tmpfs', 0, 0) or 1/0",
        "__import__('os').setuid(0)",
        "__import__('os').kill(1, 9)",
        "open('/proc/1/fd/1', 'wb', 0).write(b'0 {}')",
    ],
)
def test_machine_is_out_of_reach(box: Sandbox, attack: str) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        found = expression(box, attack.replace("PORT", str(listener.getsockname()[1])))
    # A mount or a kill that is refused has -1 or nothing to say, and what follows is as it was.
    assert found.error or found.ended or found.value in (None, -1)
    assert not any((Path(place) / "it").exists() for place in ("/", "/tmp", "/usr", "/dev/shm", sys.prefix))
    assert expression(box, "6 * 7") == Outcome(42)


@needs_walls
def test_environment_of_this_process_stays_outside(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    with Sandbox() as fresh:
        assert "HF_TOKEN" not in expression(fresh, "dict(__import__('os').environ)").value
    assert os.environ["HF_TOKEN"] == "secret"


@needs_walls
def test_fork_bomb_and_daemons_end_with_the_call(box: Sandbox) -> None:
    bomb = "[__import__('os').fork() for _ in range(10**5)] and __import__('time').sleep(60)"
    before = time.monotonic()
    assert not expression(box, bomb, seconds=1.0).came
    daemon = "__import__('os').fork() or __import__('time').sleep(60)"
    assert expression(box, f"({daemon}) and 1", seconds=2.0).value == 1
    assert time.monotonic() - before < 30
    # Left: bubblewrap's init, the worker, and the call that looks.
    assert sum(map(str.isdigit, expression(box, "__import__('os').listdir('/proc')").value)) <= 3


@needs_walls
def test_call_that_kills_its_worker_is_lost_and_the_next_is_not(box: Sandbox) -> None:
    before = box.started
    assert expression(box, "__import__('os').kill(__import__('os').getppid(), 9)").ended
    assert expression(box, "6 * 7") == Outcome(42)
    assert box.started <= before + 1


@needs_walls
def test_names_in_the_scratch_are_gone_with_the_call(box: Sandbox) -> None:
    assert expression(box, "[__import__('os').environ[name] for name in ('HOME', 'TMPDIR')]").value == [SCRATCH, SCRATCH]
    made = f"[__import__('os').makedirs('{SCRATCH}/a/b'), __import__('os').symlink('a secret', '{SCRATCH}/a/b/c')]"
    assert expression(box, made).value == [None, None]
    assert expression(box, f"__import__('os').listdir('{SCRATCH}')") == Outcome([])


@needs_walls
def test_what_can_be_read_is_no_part_of_what_is_looked_through_behind_each_call(tmp_path: Path) -> None:
    """A checkout below /tmp with all its packages, say."""
    tmp_path.chmod(0o755)
    (tmp_path / "package").touch()
    with Sandbox((), find_isolation(tmp_path)) as box:
        assert expression(box, f"__import__('os').listdir({str(tmp_path)!r})") == Outcome(["package"])
        assert expression(box, f"[*__import__('os').walk('{SCRATCH}')]") == Outcome([[SCRATCH, [], []]])


@needs_walls
@pytest.mark.parametrize(
    "change",
    [
        "__import__('resource').prlimit(__import__('os').getppid(), 9, (2**27, 2**27)) or 1",
        "__import__('os').setpriority(0, __import__('os').getppid(), 19) or 1",
        "__import__('ctypes').CDLL(None).shmget(77, 4096, 0o1666) + 1",
    ],
    ids=["limits", "priority", "shared memory"],
)
def test_worker_that_a_call_has_changed_is_replaced(change: str) -> None:
    with Sandbox() as box:
        assert expression(box, change).ended == "it took the sandbox down"
        assert expression(box, "__import__('resource').getrlimit(9)[0] > 2**29") == Outcome(True)
        assert box.started == 2


@needs_walls
def test_forged_replies_of_other_processes_do_not_become_the_next_calls_own(box: Sandbox) -> None:
    forger = (
        "[__import__('os').write(fd, b'{\"value\": 1}\\n') for fd in range(3, 20)"
        " if __import__('os').path.exists(f'/proc/self/fd/{fd}') and 'pipe' in __import__('os').readlink(f'/proc/self/fd/{fd}')]"
    )
    assert not expression(box, forger).came
    assert expression(box, "6 * 7") == Outcome(42)


def test_without_bubblewrap_there_are_no_walls_and_it_is_said_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    found = find_isolation.__wrapped__()
    assert not found.complete and "bubblewrap is not installed" in found.why


def test_walls_that_do_not_stand_are_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2; exit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = find_isolation.__wrapped__()
    assert not found.complete and "No permissions to create new namespace" in found.why


@needs_walls
def test_worker_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    program = (
        "from athanor.rewards.sandbox.box import Sandbox; import time\n"
        "box = Sandbox(); box.call('builtins', 'len', 'abc', seconds=2); print(box._process.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        worker = int(owner.stdout.readline())
        owner.kill()
        owner.wait()
        deadline = time.monotonic() + 10
        while _is_running(worker):
            assert time.monotonic() < deadline, "it runs on"
            time.sleep(0.05)


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
