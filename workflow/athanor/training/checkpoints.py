"""Checkpoint folders: written beside and renamed, complete only with `state.json`, and checked before they are used.

`state.json` is written last and says what position in training the folder holds, which layout wrote it, and the sha256
of every file. A folder that does not hash as it says is moved to `quarantined/` and the one before it is used.
"""

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch.distributed as dist

from athanor.artifacts.files import sha256_of, write_json
from athanor.artifacts.run import StageError

STATE = "state.json"
FINAL = "checkpoint"  # the checkpoint a milestone leaves
SAVES = "checkpoints"  # those a killed run continues from
QUARANTINED = "quarantined"
SCHEMA_VERSION = 1
ROOM = 1.1  # of a save must be free before the next: others write to the same disk
Usual = dict[str, list[list[float]]]  # of the last steps


@dataclass(frozen=True)
class Position:
    """How far training is; together with the recipe it decides every later sample, batch size and learning rate."""

    step: int = 0
    tokens: int = 0
    samples: int = 0


@dataclass(frozen=True)
class State:
    """What `state.json` says."""

    position: Position
    layout: dict[str, Any]
    optimizer: bool  # False: weights alone
    files: dict[str, str] = field(default_factory=dict)  # name → sha256
    usual: Usual = field(default_factory=dict)  # the steps that a spike is judged by
    next_save_tokens: int = 0  # the most until the next save, where that is not the recipe's
    proof: dict[str, Any] | None = None  # what it must measure like when it is loaded (proof.py)


def read_state(folder: Path) -> State:
    """Raises StageError when the folder holds no complete checkpoint."""
    try:
        data = json.loads((folder / STATE).read_text())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StageError(f"{folder} has no {STATE}: the save never finished") from error
    except ValueError as error:
        raise StageError(f"{folder / STATE} is not JSON: {error}") from error
    if data.get("schema_version") != SCHEMA_VERSION:
        raise StageError(f"{folder / STATE} has schema_version {data.get('schema_version')}, known is {SCHEMA_VERSION}")
    position = Position(**data["position"])
    rest = {name: data[name] for name in ("layout", "optimizer", "files", "usual", "next_save_tokens", "proof") if name in data}
    return State(position, **rest)


def damage(folder: Path) -> list[str]:
    """What is wrong with a checkpoint, found by all ranks together (each hashes its share); empty when it is whole."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    try:
        files = read_state(folder).files
        mine = _damaged_files(folder, dict(sorted(files.items())[rank::ranks]))
    except StageError as error:
        mine = [str(error)]
    everyone: list[list[str]] = [[] for _ in range(ranks)]
    dist.all_gather_object(everyone, mine)
    return list(dict.fromkeys(problem for problems in everyone for problem in problems))


def save(folder: Path, write: Callable[[Path], None], state: State) -> None:
    """Make the checkpoint `folder` of `state`: `write` (called on all ranks) fills a folder beside it, which gets its name at
    the end. Raises StageError where the disk has no room."""
    beside = begin(folder)
    write(beside)
    publish(folder, beside, state, {})


def begin(folder: Path) -> Path:
    """An empty folder beside the checkpoint `folder`, for its files.

    Raises StageError, on all ranks, where the disk has no room for one as large as the last.
    """
    beside = folder.with_name(f".{folder.name}.writing")
    _check_room(folder.parent)
    if dist.get_rank() == 0:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
    dist.barrier()
    return beside


def publish(folder: Path, beside: Path, state: State, mine: dict[str, str]) -> None:
    """Give the files in `beside` their name, with a `state.json`. `mine` are digests that this rank knows already."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    dist.barrier()  # all ranks see the same files
    everyone: list[dict[str, str]] = [{} for _ in range(ranks)]
    dist.all_gather_object(everyone, mine)
    files = {name: digest for part in everyone for name, digest in part.items()}
    left = sorted({path.name for path in beside.iterdir()} - files.keys())
    dist.all_gather_object(everyone, {name: sha256_of(beside / name) for name in left[rank::ranks]})
    if rank == 0:
        files |= {name: digest for part in everyone for name, digest in part.items()}
        whole = replace(state, files=dict(sorted(files.items())))
        write_json(beside / STATE, {"schema_version": SCHEMA_VERSION, **asdict(whole)})
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(beside, folder)
        _sync(folder.parent)
    dist.barrier()


def _check_room(saves: Path) -> None:
    """Raise StageError where the newest save would not fit a second time; of a first save nothing is known."""
    wrong = [""]
    if dist.get_rank() == 0 and (newest := sorted(saves.glob("step-*"))[-1:]):
        needed = sum(path.stat().st_size for path in newest[0].iterdir())
        if (free := shutil.disk_usage(saves).free) < ROOM * needed:
            room = f"{free / 1e9:.3g} GB are free, a checkpoint takes {needed / 1e9:.3g} GB"
            wrong = [f"No space left on device for a checkpoint in {saves}: {room}; make room and run again"]
    dist.broadcast_object_list(wrong)
    if wrong[0]:
        raise StageError(wrong[0])


def set_newest_aside(folder: Path) -> None:
    """Quarantine the newest checkpoint below the artifact's `folder`, whole or not: training went wrong behind it."""
    newest = next(iter(_newest_first(folder)), None)
    dist.barrier()  # every rank has looked before rank 0 moves it
    if newest is not None and dist.get_rank() == 0:
        moved = _quarantine(newest, folder / QUARANTINED, "training went wrong behind it")
        print(f"rolling back: checkpoint {newest.name} moved to {moved}, going on from the one before", flush=True)
    dist.barrier()


def set_aside_behind(folder: Path, step: int) -> bool:
    """Whether a checkpoint of a later step was quarantined, or the milestone's last."""
    names = [path.name.split("-") for path in (folder / QUARANTINED).glob("*") if path.is_dir()]
    return any(name[0] == FINAL or int(name[1]) > step for name in names)


def _newest_first(folder: Path) -> list[Path]:
    saves = [folder / FINAL, *sorted((folder / SAVES).glob("step-*"), reverse=True)]
    return [path for path in saves if path.is_dir()]


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint below the artifact's `folder` that verifies; damaged newer ones are quarantined."""
    for save_folder in _newest_first(folder):
        wrong = damage(save_folder)
        if not wrong:
            return save_folder
        set_aside(folder, save_folder, f"is damaged ({wrong[0]})")
    return None


def set_aside(folder: Path, save: Path, why: str) -> None:
    """Quarantine the checkpoint `save` of the artifact's `folder` with the reason beside it."""
    dist.barrier()  # every rank is through with it
    if dist.get_rank() == 0:
        moved = _quarantine(save, folder / QUARANTINED, why)
        print(f"checkpoint {save} {why}; moved to {moved}, trying the one before", flush=True)
    dist.barrier()


def save_folder(folder: Path, step: int) -> Path:
    """Where the checkpoint of `step` goes while a milestone is trained."""
    return folder / SAVES / f"step-{step:09d}"


def prune(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints of an unfinished milestone, and remains of broken saves (rank 0)."""
    if dist.get_rank() == 0:
        for old in sorted((folder / SAVES).glob("step-*"))[:-keep]:
            shutil.rmtree(old)
        for broken in (folder / SAVES).glob(".step-*.writing"):
            shutil.rmtree(broken)


def finalize(folder: Path, last: Path) -> None:
    """The last checkpoint becomes the milestone's own; the others go (rank 0)."""
    if dist.get_rank() == 0:
        if last != folder / FINAL:
            os.replace(last, folder / FINAL)
            _sync(folder)
        shutil.rmtree(folder / SAVES, ignore_errors=True)
    dist.barrier()


def _damaged_files(folder: Path, files: dict[str, str]) -> list[str]:
    wrong = []
    for name, digest in files.items():
        path = folder / name
        if not path.is_file():
            wrong.append(f"{name} is missing")
        elif (found := sha256_of(path)) != digest:
            wrong.append(f"{name} has sha256 {found[:12]}…, {STATE} says {digest[:12]}…")
    return wrong


def _quarantine(folder: Path, quarantine: Path, why: str) -> Path:
    quarantine.mkdir(exist_ok=True)
    taken = {path.name for path in quarantine.iterdir() if path.is_dir()}
    names = (f"{folder.name}-{number}" for number in range(1, len(taken) + 2))
    moved = quarantine / next(name for name in names if name not in taken)
    write_json(quarantine / f"{moved.name}.json", {"checkpoint": folder.name, "why": why, "time": time.time()})
    os.replace(folder, moved)
    return moved


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
