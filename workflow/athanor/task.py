"""`athanor task`: its options, and what it says. The work is in `athanor.rl.tasks`."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from athanor.rl.tasks.audit import Audit

DESCRIPTION = """\
Try generators of verifiable problems before a model learns from them.

Each is asked for problems twice; its verifier is given the answers on record and wrong ones: none, blanks, prose, the
question, a hedge, all answers at once, another problem's, a zero, an instruction to the judge, programs, and texts that have no
end. All of it runs in a sandbox (bubblewrap). Then the levels of its curriculum are tried, and the tasks counted that are
sound, at most 30 of a generator.
"""
EXAMPLES = """\
examples:
  athanor task audit
      every generator of reasoning-gym and our own, about a quarter of an hour
  athanor task audit countdown gcd --json audit.json
      two of them, and the findings as a file
  athanor task audit store/problems/0123456789abcdef/molecules.jsonl:ring_count
      one that asks about molecules, with those that a recipe's corpus has
  athanor task new sums.py
      a task of your own to start from
  athanor task audit sums.py:Sums
      and whether it is fit to be learnt from
"""
SKELETON = '''\
"""A task of one's own: change the four methods, then `athanor task audit {path}:{name}`."""

import random
from typing import Any


class {name}:
    # What the constructor takes, easiest first: each combination is a task.
    levels = {{"terms": [2, 3, 4, 6], "largest": [9, 99, 999]}}

    def __init__(self, terms: int, largest: int) -> None:
        self.terms, self.largest = terms, largest

    def case_generator(self) -> dict[str, Any]:
        """A problem, as JSON holds it; `random` is seeded before."""
        return {{"numbers": [random.randint(0, self.largest) for _ in range(self.terms)]}}

    @staticmethod
    def prompt_func(case: dict[str, Any]) -> str:
        """The question."""
        return f"What is {{' + '.join(map(str, case['numbers']))}}? Answer with the number alone."

    @staticmethod
    def solve(case: dict[str, Any]) -> str:
        """An answer that is right."""
        return str(sum(case["numbers"]))

    @staticmethod
    def verify_score(answer: str, case: dict[str, Any]) -> float:
        """1.0 for a right answer, less for any other: what earns less counts for nothing."""
        return float(answer.strip() == str(sum(case["numbers"])))
'''


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    task = commands.add_parser("task", help="audit generators of verifiable problems, or begin one").add_subparsers(
        required=True, metavar="ACTION"
    )
    audit = task.add_parser(
        "audit",
        help="whether generators and their verifiers are fit to learn from",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    audit.add_argument(
        "generators",
        nargs="*",
        metavar="GENERATOR",
        help="a name, FILE.py:Class, or FILE:NAME of molecules; all that need no file by default",
    )
    audit.add_argument("--json", type=Path, metavar="FILE", help="write what was found, task by task")
    audit.add_argument("--jobs", type=int, default=2, metavar="N", help="sandboxes at once (default 2)")
    audit.set_defaults(command=_audit)
    new = task.add_parser("new", help="write a task of your own to start from")
    new.add_argument("file", type=Path, metavar="FILE.py")
    new.set_defaults(command=_new)


def _audit(arguments: argparse.Namespace) -> int:
    """Exit code 1 where a generator that was named is quarantined, or nothing shuts answers off here."""
    from athanor.rewards.sandbox.isolation import find_isolation
    from athanor.rl.tasks.audit import audit_by_name, known_generators
    from athanor.rl.tasks.generator import is_file_and_class

    isolation = find_isolation()
    if not isolation.complete:
        print(f"no sandbox on this machine: {isolation.why}; an audit runs what hostile answers hold", file=sys.stderr)
        return 1
    known = known_generators()
    named = arguments.generators or known
    wrong = [name for name in named if name not in known and not is_file_and_class(name)]
    if wrong:
        print(
            f"no such generator: {', '.join(wrong)}; a name of reasoning-gym's or of docs/tasks.md, FILE.py:Class, or "
            "FILE:NAME of molecules",
            file=sys.stderr,
        )
        return 1
    found: list[Audit] = []
    with ThreadPoolExecutor(max(1, arguments.jobs)) as threads:
        for audit in threads.map(audit_by_name, named):
            found.append(audit)
            said = "; ".join(audit.quarantine) or f"{len(audit.tasks)} tasks"
            print(f"{len(found)} of {len(named)}  {audit.generator}: {said}", file=sys.stderr, flush=True)
    print("\n".join(table(found)))
    if arguments.json:
        rows = [{**asdict(audit), "quarantine": audit.quarantine, "defects": audit.defects} for audit in found]
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return int(bool(arguments.generators) and any(audit.quarantine for audit in found))


def table(found: "Sequence[Audit]") -> Iterator[str]:
    """The findings as a table, and the count below it."""
    yield "| generator | tasks | ms a problem | commonest answer | as it comes | behind its shape |"
    yield "|---|---:|---:|---:|---|---|"
    for audit in found:
        defects, left = "; ".join(audit.defects), "; ".join(audit.quarantine)
        tasks = str(len(audit.tasks)) if not left else "quarantined"
        shaped = left or ("sound" if defects else "")
        yield f"| {audit.generator} | {tasks} | {audit.milliseconds:.1f} | {audit.constant:.2f} | {defects} | {shaped} |"
    sound = [audit for audit in found if audit.tasks]
    yield f"\n{sum(len(audit.tasks) for audit in sound)} tasks of {len(sound)} generators, of {len(found)} tried"


def _new(arguments: argparse.Namespace) -> int:
    path: Path = arguments.file
    name = "".join(part.capitalize() for part in path.stem.split("_"))
    if path.suffix != ".py" or not name.isidentifier():
        print(f"{path}: name it as a Python module, such as sums.py", file=sys.stderr)
        return 1
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(SKELETON.format(path=path, name=name))
    except FileExistsError:
        print(f"{path} is there already; give another name", file=sys.stderr)
        return 1
    print(f"{path}: change it, then athanor task audit {path}:{name}")
    return 0
