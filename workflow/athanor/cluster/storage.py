"""The file system of the store: what it is, whether it has room, whose it is, and whether it lies where it should."""

import getpass
import os
import shutil
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from athanor.cluster.commands import Ask
from athanor.cluster.findings import Finding, error, ok, warning

NETWORK = ("nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "fuse.ceph", "cifs", "smb3", "glusterfs", "fuse.glusterfs",
           "panfs", "wekafs", "pvfs2", "afs", "9p", "fuse.sshfs")  # fmt: skip
_GB = 10**9
_LEAST_BYTES, _LOW_BYTES = 1 * _GB, 20 * _GB
_LOW_INODES = 100_000
_NEARLY = 0.9  # of a quota
_QUOTA_BY_HAND = {"gpfs": "mmlsquota", "beegfs": "beegfs-ctl --getquota --uid $USER", "ceph": "getfattr -n ceph.quota.max_bytes"}


@dataclass(frozen=True)
class Mount:
    """The file system that a folder lies on."""

    device: str
    folder: str
    kind: str

    @property
    def is_network(self) -> bool:
        """Whether other machines write to it as well."""
        return self.kind in NETWORK


def mount_of(path: Path, mounts: str) -> Mount:
    """The mount that `path` lies on, by the text of /proc/mounts; a later line covers an earlier one."""
    found = Mount("", "/", "unknown")
    real = path.resolve()
    for line in mounts.splitlines():
        device, folder, kind, *_ = [*(_unescape(word) for word in line.split()), "", "", ""]
        if folder and real.is_relative_to(folder) and len(folder) >= len(found.folder):
            found = Mount(device, folder, kind)
    return found


def _unescape(word: str) -> str:
    return word.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")


def nearest_folder(path: Path) -> Path:
    """`path`, or the folder above it that exists already."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def check_store(store: Path) -> list[Finding]:
    """Whether the store is there, or can be made."""
    folder = nearest_folder(store)
    if not os.access(folder, os.W_OK | os.X_OK):
        found = f"store {store}: you may not write to {folder}"
        return [error(found, "set store to a folder in your project space, or ask its owner for access")]
    return [ok(f"store {store} " + ("is there" if folder == store else f"will be made in {folder}"))]


def check_place(store: Path, home: Path, on_cluster: bool) -> list[Finding]:
    """Whether the store lies in HOME, which on a cluster is small, backed up and slow."""
    if not on_cluster or not store.resolve().is_relative_to(home.resolve()):
        return []
    found = f"store {store} lies in HOME ({home})"
    return [warning(found, "set store to project space: a HOME has a small quota, and checkpoints fill it in a day")]


def check_space(store: Path, mount: Mount) -> list[Finding]:
    """Free bytes and inodes of the store's file system, for a user without privileges."""
    room = os.statvfs(nearest_folder(store))
    free, inodes = room.f_bavail * room.f_frsize, room.f_favail
    said = f"{free / _GB:.0f} GB free on {mount.folder} ({mount.kind})"
    if free < _LEAST_BYTES:
        return [
            error(f"only {free / _GB:.2f} GB free on {mount.folder}", "make room (athanor gc --trash), or set store elsewhere")
        ]
    findings = []
    if free < _LOW_BYTES:
        findings.append(warning(said, "enough for recipe tiny; a real model's checkpoints need terabytes"))
    if room.f_files and inodes < _LOW_INODES:
        findings.append(warning(f"only {inodes} inodes free on {mount.folder}", "delete small files, or set store elsewhere"))
    return findings or [ok(f"{said}, " + (f"{inodes} inodes" if room.f_files else "inodes without limit"))]


def check_quota(store: Path, mount: Mount, ask: Ask) -> list[Finding]:
    """The user's, the group's and the project's quota on the store's file system, as far as a command tells them."""
    if by_hand := _QUOTA_BY_HAND.get(mount.kind):
        return [warning(f"the quota on {mount.folder} ({mount.kind}) is not checked", f"look at it: {by_hand}")]
    if mount.kind != "lustre":
        if not shutil.which("quota"):
            return []
        lines = [line for line in ask(["quota", "-w", "-p"]).out.splitlines() if line.split()[:1] == [mount.device]]
        return [finding for line in lines for finding in judge_quota(f"your quota on {mount.folder}", line)]
    folder = nearest_folder(store)
    owners = {"your quota": ["-u", getpass.getuser()], "your group's quota": ["-g", str(folder.stat().st_gid)]}
    project = ask(["lfs", "project", "-d", str(folder)]).out.split()[:1]
    if project and project[0].isdigit() and project[0] != "0":
        owners["the project's quota"] = ["-p", project[0]]
    answers = {what: ask(["lfs", "quota", "-q", *who, mount.folder]) for what, who in owners.items()}
    told = [(what, answer.out) for what, answer in answers.items() if not answer.code]
    return [finding for what, text in told for finding in judge_quota(f"{what} on {mount.folder}", text)]


def judge_quota(what: str, text: str) -> list[Finding]:
    """One file system of `quota -w -p` or `lfs quota -q`: name, then used, soft and hard limit and grace of KB and of files."""
    columns = text.split()
    if len(columns) < 9:
        return []
    numbers = [int(c.rstrip("*")) if c.rstrip("*").isdigit() else 0 for c in columns[1:9]]
    size = _judge_use(what, "GB", [n * 1024 / _GB for n in numbers[:3]])
    return [*size, *_judge_use(what, "files", [float(n) for n in numbers[4:7]])]


def _judge_use(what: str, unit: str, columns: Sequence[float]) -> list[Finding]:
    used, soft, hard = columns
    limit = soft or hard
    if not limit:
        return []
    said = f"{what}: {used:.0f} of {limit:.0f} {unit} used"
    if used >= (hard or soft):
        return [error(said, "nothing can be written; delete something (athanor gc --trash) or ask for more")]
    if used >= _NEARLY * limit:
        return [warning(said, "delete something (athanor gc --trash) or ask for more before it is full")]
    return [ok(said)]


def check_sharing(store: Path, umask: int) -> list[Finding]:
    """Whether a store that a group shares stays open to it: setgid on the folder, and a umask that lets the group write."""
    folder = nearest_folder(store)
    mode = folder.stat().st_mode
    if not mode & stat.S_IWGRP or mode & stat.S_IWOTH:  # nobody's but its owner's, or everybody's such as /tmp
        return []
    findings = []
    if not mode & stat.S_ISGID:
        found = f"{folder} is shared with a group, but what is made in it gets its maker's own group"
        findings.append(warning(found, f"chmod g+s {folder}, and its folders: find {folder} -type d -exec chmod g+s {{}} +"))
    if umask & stat.S_IWGRP:
        found = f"{folder} is shared with a group, but your umask {umask:04o} keeps it from writing what you make"
        findings.append(warning(found, "write `umask 002` in your shell's start-up file, and in the site's setup"))
    return findings or [ok(f"{folder} is shared with a group: setgid, umask {umask:04o}")]
