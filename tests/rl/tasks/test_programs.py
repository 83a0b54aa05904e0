"""Programs that a model wrote: right ones are, others are not, and none has a say in its verdict."""

import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from athanor.rewards.sandbox.box import Sandbox
from athanor.rl.tasks import programs
from athanor.rl.tasks.audit import audit_by_name
from athanor.rl.tasks.programs import DIFFERENT, INPUTS, KINDS, attributes, generate, score
from athanor.rl.tasks.verifying import Verdict, Verifier
from tests.rewards.sandbox.walls import needs_walls


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with Sandbox([programs.__name__]) as sandbox:
        yield sandbox


@pytest.mark.parametrize("generator", sorted(KINDS))
@pytest.mark.parametrize("levels", [{}, {"steps": 3, "ends": 1}], ids=["easiest", "hardest"])
def test_program_on_record_prints_what_the_case_has(generator: str, levels: dict[str, int]) -> None:
    """Run as any interpreter would, too."""
    entries = generate(generator, levels, 1, 6)
    assert score(generator, [entry["answer"] for entry in entries], entries) == [1.0] * 6
    for entry in entries[:2]:
        assert len(entry["case"]) == INPUTS and len({wanted for _, wanted in entry["case"]}) >= DIFFERENT
        line, wanted = entry["case"][0]
        done = subprocess.run([sys.executable, "-c", entry["answer"]], input=line, capture_output=True, text=True)
        assert done.stdout.strip() == wanted
    assert generate(generator, levels, 1, 6) == entries and generate(generator, levels, 2, 6) != entries


@pytest.mark.parametrize("generator", sorted(KINDS))
def test_other_ways_to_write_it_are_right(generator: str) -> None:
    [entry] = generate(generator, {}, 1, 1)
    program = entry["answer"]
    fenced = f"Here it is:\n```python\n{program}\n```\nIt reads a line."
    wrapped = (
        "def main():\n" + "".join(f"    {line}\n" for line in program.splitlines()) + 'if __name__ == "__main__":\n    main()'
    )
    ends = [f"{program}\nexit_code = 0\nraise SystemExit(exit_code)", f"import sys\n{program}\nsys.exit()"]
    reads = [
        program.replace("input()", way) for way in ("open(0).readline()", "__import__('sys').stdin.buffer.readline().decode()")
    ]
    answers = [fenced, wrapped, f"{program}\n", *ends, *reads]
    assert score(generator, answers, [entry] * len(answers)) == [1.0] * len(answers)


def test_wrong_programs_are_wrong() -> None:
    [entry] = generate("list_program", {"steps": 1}, 1, 1)
    program, [_, wanted] = entry["answer"], entry["case"][0]
    wrong = [
        "",
        "print(0)",
        f"print({wanted!r})",
        f"{program} or banana",
        f"{program}\nraise SystemExit(1)",
        f"{program}\nprint('and more')",
        program.replace("print(", "str("),
        f"import sys\n{program}\nsys.stdout.flush()\nimport os\nos._exit(3)",
    ]
    assert score("list_program", wrong, [entry] * len(wrong)) == [0.0] * len(wrong)


def test_program_that_does_not_end_or_prints_for_ever_is_stopped() -> None:
    [entry] = generate("word_program", {}, 1, 1)
    began = time.monotonic()
    endless = [
        "while True: pass",
        "input()\nwhile True: print('x' * 1000)",
        "import os\nif os.fork(): os._exit(0)\nwhile True: pass",
    ]
    assert score("word_program", endless, [entry] * 3) == [0.0, 0.0, 0.0]
    assert time.monotonic() - began < 30


ATTACKS = {
    "kills its verifier": "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)",
    "forges a reply": """
import os
for fd in range(3, 100):
    try: os.write(fd, b'{"value": [1.0]}\\n')
    except OSError: pass
""",
    "changes what is in memory": """
import gc
for o in gc.get_objects():
    if isinstance(o, list) and o and o[0] == 0.0: o[:] = [1.0] * len(o)
""",
    "looks for what is expected": """
import sys
f = sys._getframe()
while 'case' not in f.f_locals: f = f.f_back
print(dict(map(tuple, f.f_locals['case']))[input()])
""",
    "kills the others": """
import os
if os.fork() == 0:
    os.setsid()
    while True:
        try: os.kill(-1, 9)
        except OSError: pass
""",
    "reads files": "import os\nos.system('echo 9 > /tmp/it')\nprint(open('/etc/passwd').read())",
}


@needs_walls
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_hostile_program_is_wrong_and_its_neighbours_are_judged(box: Sandbox, attack: str) -> None:
    entries: list[Any] = box.call(programs.__name__, "generate", "list_program", {}, 1, 2, seconds=10.0).value
    answers = [entries[0]["answer"], attack, entries[1]["answer"]]
    verdicts = Verifier(box).judge(programs.__name__, "list_program", answers, [entries[0], entries[0], entries[1]])
    assert [verdict.right for verdict in verdicts] == [True, False, True]
    assert verdicts[0] == Verdict(True)


@needs_walls
@pytest.mark.parametrize("generator", sorted(KINDS))
def test_audit_finds_every_level_sound(generator: str) -> None:
    found = audit_by_name(generator)
    assert not found.quarantine and not found.refused
    assert len(found.tasks) == 8 == len({task.name for task in found.tasks}) and attributes(generator) == {"steps": 4, "ends": 2}
