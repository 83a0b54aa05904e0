"""What an examination found: a line each, and for what is not fine, what to write or do."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How a finding bears on a campaign."""

    OK = "ok"
    WARNING = "warning"  # it will run, but somebody will be sorry
    ERROR = "error"  # it will not run


@dataclass(frozen=True)
class Finding:
    """One fact about a cluster or a machine; `advice` is the way out of what is not fine."""

    level: Level
    found: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.level:9}{self.found}" + (f"; {self.advice}" if self.advice else "")


def ok(found: str) -> Finding:
    """A finding that needs nobody."""
    return Finding(Level.OK, found)


def warning(found: str, advice: str) -> Finding:
    """A finding that somebody will be sorry for."""
    return Finding(Level.WARNING, found, advice)


def error(found: str, advice: str) -> Finding:
    """A finding that keeps a campaign from running."""
    return Finding(Level.ERROR, found, advice)


def has_error(findings: Iterable[Finding]) -> bool:
    """Whether one of them keeps a campaign from running."""
    return any(finding.level is Level.ERROR for finding in findings)


def summary(findings: Sequence[Finding]) -> str:
    """`2 errors, 1 warning, 9 fine`."""
    words = {Level.ERROR: ("error", "errors"), Level.WARNING: ("warning", "warnings"), Level.OK: ("fine", "fine")}
    counts = {level: sum(finding.level is level for finding in findings) for level in words}
    return ", ".join(f"{count} {words[level][count != 1]}" for level, count in counts.items())
