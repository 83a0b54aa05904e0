"""What became of every generator that a recipe names: `audit.json`, and `audit.html` for people to read."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from athanor.artifacts.files import write_atomically, write_json
from athanor.rl.browser import STYLE
from athanor.rl.tasks.audit import Audit
from athanor.rl.tasks.problems import LEAST

AUDIT_FILE, AUDIT_PAGE = "audit.json", "audit.html"
HEAD = ("generator", "tasks", "problems", "held out", "ms a problem", "commonest answer", "as it comes", "left out")
TABLE_STYLE = """
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: right; vertical-align: top; padding: .3rem .6rem; border-bottom: 1px solid #e5e7eb }
th { font-weight: 600; color: #4b5563; position: sticky; top: 0; background: white }
th:first-child, td:first-child, th:nth-child(n+7), td:nth-child(n+7) { text-align: left }
td:first-child, td:nth-child(n+7) { min-width: 12rem; overflow-wrap: anywhere }
"""


@dataclass(frozen=True)
class TaskAccount:
    """How many problems of a task there are, by what they are for; with fewer than LEAST it is not taken."""

    name: str
    difficulty: float
    learnt: int
    held_out: int
    missing: int  # of those that are wanted
    asked_before: int  # this and the next two: drawn and not taken, see Made
    wrong: int
    unmade: int
    trouble: str = ""

    @property
    def is_taken(self) -> bool:
        """Whether there are any to learn from."""
        return self.learnt > 0


@dataclass(frozen=True)
class Account:
    """One generator. Without an audit it was not tried, and `untried` says why."""

    generator: str
    untried: str = ""
    audit: Audit | None = None
    tasks: list[TaskAccount] = field(default_factory=list)

    @property
    def quarantine(self) -> list[str]:
        """The evidence against it."""
        return self.audit.quarantine if self.audit else []

    @property
    def taken(self) -> list[TaskAccount]:
        """The tasks that are learnt from."""
        return [task for task in self.tasks if task.is_taken]

    @property
    def left_out(self) -> str:
        """Why nothing of it is learnt from; empty: something is."""
        if self.untried or self.taken:
            return self.untried
        if self.quarantine:
            return f"quarantined: {'; '.join(self.quarantine)}"
        refused = self.audit.refused if self.audit else {}
        few = [f"{t.name}: {t.trouble or f'fewer than {LEAST} different problems'}" for t in self.tasks]
        return f"no task is sound: {'; '.join([*(f'{why} ({count})' for why, count in refused.items()), *few])}"

    def row(self) -> dict[str, Any]:
        """Everything that is known, as JSON holds it."""
        found = asdict(self.audit) | {"defects": self.audit.defects} if self.audit else {"generator": self.generator}
        tasks = [asdict(task) for task in self.tasks]
        return {**found, "quarantine": self.quarantine, "left_out": self.left_out, "tasks": tasks}


def write_accounts(folder: Path, title: str, counters: Mapping[str, int], accounts: Sequence[Account], walls: str) -> None:
    """Both files below `folder`. `walls` says why there are none on this machine; empty: there are."""
    rows = [account.row() for account in accounts]
    write_json(folder / AUDIT_FILE, {"schema_version": 1, "counters": dict(counters), "walls": walls, "generators": rows})
    counted = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counters.items() if name != "walls")
    lead = f"{counted}. " + (f"No sandbox with walls here: {walls}." if walls else "The sandbox has walls.")
    lines = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in _cells(account))}</tr>" for account in accounts)
    table = f"<table><tr>{''.join(f'<th>{name}</th>' for name in HEAD)}</tr>{lines}</table>"
    note = "“Commonest answer” is the share of problems that it solves: what a pass rate is to be read beside."
    body = f'<h1>{escape(title)}</h1><p class="lead">{escape(lead)} {note}</p>{table}'
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}{TABLE_STYLE}</style>'
    write_atomically(folder / AUDIT_PAGE, f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>\n')


def _cells(account: Account) -> tuple[str, ...]:
    taken, audit = account.taken, account.audit
    counts = (len(taken), sum(task.learnt for task in taken), sum(task.held_out for task in taken))
    measured = (f"{audit.milliseconds:.1f}", f"{audit.constant:.2f}", "; ".join(audit.defects)) if audit else ("", "", "")
    return (account.generator, *map(str, counts), *measured, account.left_out)
