"""The result-bearing pins of an environment, read from its lock files in `envs/`."""

import re
from functools import lru_cache
from pathlib import Path

_PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)", re.MULTILINE)


class LockError(Exception):
    """An environment without a readable lock."""


def environments(project: Path) -> list[str]:
    """The environments stages can run in: those with a lock and a line that installs torch."""
    names = {path.name.rpartition("-py")[0] for path in (project / "envs").glob("*-py*.lock")}
    return sorted(name for name in names if (project / "envs" / f"torch-{name}.txt").is_file())


@lru_cache
def pinned_versions(project: Path, environment: str) -> dict[str, str]:
    """Package → version of `envs/ENVIRONMENT-py3XX.lock` and `envs/torch-ENVIRONMENT.txt`.

    The locks of the Python versions agree on every package a stage's identity names (a test holds them to it),
    so the oldest is read.
    """
    locks = sorted((project / "envs").glob(f"{environment}-py*.lock"))
    if not locks:
        raise LockError(f"no lock envs/{environment}-py*.lock in {project}; make lock writes it")
    text = locks[0].read_text() + "\n" + (project / "envs" / f"torch-{environment}.txt").read_text()
    return {_normal(name): version.split("+")[0] for name, version in _PIN.findall(text)}


def pins(project: Path, environment: str, packages: tuple[str, ...]) -> dict[str, str]:
    """The versions of those of `packages` the environment has."""
    pinned = pinned_versions(project, environment)
    return {name: pinned[name] for name in packages if name in pinned}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
