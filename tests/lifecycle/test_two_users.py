"""Two users of one group on one store: what one has made the other takes up, and neither is in the other's way."""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.lifecycle.project import SITE, Project

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("setpriv") is None,
        reason="runs commands as two users: make test as root on a machine with setpriv (util-linux) runs this",
    ),
]
GROUP = 45000
USERS = {"ada": 40001, "bea": 40002}


def user(name: str, folder: Path, store: Path) -> Project:
    """A project in the hands of one user; it may read what root may, for the checkout lies anywhere, but write as the user."""
    project = Project.make(folder / name)
    project.write("config/sites/laptop.yaml", {**SITE, "store": str(store)})
    for path in (project.folder, *project.folder.rglob("*")):
        os.chown(path, USERS[name], GROUP, follow_symlinks=False)
    identity = [f"--reuid={USERS[name]}", f"--regid={GROUP}", "--clear-groups"]
    reader = ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
    shell = ["sh", "-c", 'umask 002; exec "$@"', "sh"]
    home = {"HOME": str(project.folder), "USER": name, "LOGNAME": name}
    return replace(project, environment=home, before=("setpriv", *identity, *reader, *shell))


@pytest.fixture
def common() -> Iterator[Path]:
    """A folder that every user can enter: pytest's own is root's."""
    with tempfile.TemporaryDirectory(prefix="two-users-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_users_of_a_group_share_a_store(common: Path) -> None:
    store = common / "store"
    store.mkdir()
    os.chown(store, 0, GROUP)
    store.chmod(0o2775)
    ada, bea = user("ada", common, store), user("bea", common, store)
    made = ada.snakemake("--until", "train_tokenizer")
    assert made.returncode == 0, made.stdout + made.stderr
    went_on = bea.snakemake("--until", "initialize_model", "tokenize_shard")
    assert went_on.returncode == 0, went_on.stdout + went_on.stderr
    computed = {name.partition("/")[0]: times for name, times in Project(store.parent).computed().items()}
    assert computed == {"fetch": 1, "tokenizer": 1, "tokenize": 1, "initialize": 1}
    assert {path.stat().st_uid for path in store.glob("initialize/*/manifest.json")} == {USERS["bea"]}

    for manifest in store.glob("tokenizer/*/manifest.json"):  # ada's; bea deletes it, and adopts the sealed bytes
        manifest.unlink()
    again = bea.snakemake("--until", "train_tokenizer")
    assert again.returncode == 0, again.stdout + again.stderr
    assert set(Project(store.parent).computed().values()) == {1}

    done = ada.snakemake("--until", "initialize_model", "tokenize_shard")
    assert done.returncode == 0 and "nothing is missing" in bea.athanor("track", "sync").stdout, done.stdout + done.stderr
    for path in (store, *store.rglob("*")):
        if not path.is_symlink():
            mode, owner = path.stat().st_mode, path.stat()
            assert owner.st_gid == GROUP, path
            assert mode & stat.S_IRGRP, f"{path} cannot be read by the group"
            assert not path.is_dir() or mode & stat.S_IWGRP, f"{path} cannot be written by the group"
