"""The store's file system: mounts, quotas, places and modes, told by recorded answers and temporary folders."""

import os
from pathlib import Path

import pytest

from athanor.cluster.commands import Answer
from athanor.cluster.findings import Level
from athanor.cluster.storage import (
    Mount,
    check_place,
    check_quota,
    check_sharing,
    check_space,
    check_store,
    judge_quota,
    mount_of,
)

from .recorded import Recorded

MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
nfs:/home /home nfs4 rw,vers=4.2 0 0
10.0.0.1@o2ib:/scratch /lustre lustre rw,flock 0 0
nfs:/odd /with\\040space nfs rw 0 0
tmpfs /lustre/local tmpfs rw 0 0
"""
LUSTRE = Mount("10.0.0.1@o2ib:/scratch", "/lustre", "lustre")
HERE = Mount("/dev/sda1", "/", "ext4")


@pytest.mark.parametrize(
    ("path", "folder", "kind", "is_network"),
    [
        ("/srv/x", "/", "ext4", False),
        ("/home/ada/store", "/home", "nfs4", True),
        ("/homes/ada", "/", "ext4", False),
        ("/lustre/group", "/lustre", "lustre", True),
        ("/lustre/local/x", "/lustre/local", "tmpfs", False),
        ("/with space/x", "/with space", "nfs", True),
    ],
)
def test_path_lies_on_the_nearest_mount(path: str, folder: str, kind: str, is_network: bool) -> None:
    mount = mount_of(Path(path), MOUNTS)
    assert (mount.folder, mount.kind, mount.is_network) == (folder, kind, is_network)


def test_store_that_can_be_made_is_fine_and_one_that_cannot_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "new" / "store"
    assert [str(f) for f in check_store(store)] == [f"ok       store {store} will be made in {tmp_path}"]
    assert not store.exists()
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    (found,) = check_store(store)
    assert (found.level, found.found) == (Level.ERROR, f"store {store}: you may not write to {tmp_path}")


def test_store_in_home_matters_on_a_cluster_only(tmp_path: Path) -> None:
    assert check_place(tmp_path / "store", tmp_path, on_cluster=False) == []
    assert check_place(tmp_path / "store", tmp_path / "home", on_cluster=True) == []
    (found,) = check_place(tmp_path / "store", tmp_path, on_cluster=True)
    assert found.level is Level.WARNING


@pytest.mark.parametrize(
    ("free_gb", "inodes", "levels"),
    [
        (500, 10**6, [Level.OK]),
        (5, 10**6, [Level.WARNING]),
        (0.5, 10**6, [Level.ERROR]),
        (500, 10, [Level.WARNING]),
        (5, 10, [Level.WARNING, Level.WARNING]),
    ],
)
def test_room_on_the_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_gb: float, inodes: int, levels: list[Level]
) -> None:
    blocks = int(free_gb * 1e9 / 4096)
    monkeypatch.setattr(
        os, "statvfs", lambda _: os.statvfs_result((4096, 4096, 10**9, blocks, blocks, 10**7, inodes, inodes, 0, 255))
    )
    assert [found.level for found in check_space(tmp_path, HERE)] == levels


def quota(used: str, soft: int, hard: int, files: int = 10, most: int = 0) -> str:
    """A line of `lfs quota -q`, which breaks it where the name of the file system is long."""
    return f"   /lustre\n  {used}  {soft} {hard}  -   {files}  {most} {most}    -\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (quota("1000", 0, 0), []),
        (quota("500000000", 1_000_000_000, 2_000_000_000), ["ok       q: 512 of 1024 GB used"]),
        (
            quota("950000000", 1_000_000_000, 1_100_000_000),
            ["warning  q: 973 of 1024 GB used; delete something (athanor gc --trash) or ask for more before it is full"],
        ),
        (
            quota("1100000000*", 1_000_000_000, 1_100_000_000),
            ["error    q: 1126 of 1024 GB used; nothing can be written; delete something (athanor gc --trash) or ask for more"],
        ),
        (
            quota("0", 0, 0, files=99, most=100),
            ["warning  q: 99 of 100 files used; delete something (athanor gc --trash) or ask for more before it is full"],
        ),
        ("quota: cannot open /etc/mtab", []),
    ],
)
def test_quota_near_its_end_warns_and_at_its_end_is_an_error(text: str, said: list[str]) -> None:
    assert [str(found) for found in judge_quota("q", text)] == said


def test_lustre_is_asked_for_user_group_and_project(tmp_path: Path) -> None:
    full = Answer(0, quota("999", 1000, 1000))
    ask = Recorded({"lfs project -d": Answer(0, f" 4711 P {tmp_path}\n"), "lfs quota": full})
    found = check_quota(tmp_path, LUSTRE, ask)
    assert [f.level for f in found] == [Level.WARNING] * 3
    assert ask.asked[-1] == "lfs quota -q -p 4711 /lustre"


def test_quota_that_cannot_be_read_is_named_with_its_command(tmp_path: Path) -> None:
    (found,) = check_quota(tmp_path, Mount("fs1", "/gpfs", "gpfs"), Recorded({}))
    assert (found.level, found.advice) == (Level.WARNING, "look at it: mmlsquota")


def mode(folder: Path, bits: int) -> Path:
    folder.mkdir()
    folder.chmod(bits)
    return folder


@pytest.mark.parametrize(
    ("bits", "umask", "levels"),
    [
        (0o755, 0o022, []),
        (0o1777, 0o022, []),
        (0o2775, 0o002, [Level.OK]),
        (0o775, 0o002, [Level.WARNING]),
        (0o2775, 0o022, [Level.WARNING]),
        (0o775, 0o022, [Level.WARNING, Level.WARNING]),
    ],
)
def test_shared_store_needs_setgid_and_a_umask(tmp_path: Path, bits: int, umask: int, levels: list[Level]) -> None:
    folder = mode(tmp_path / "store", bits)
    assert [found.level for found in check_sharing(folder / "below", umask)] == levels
