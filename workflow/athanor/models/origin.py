"""What a folder had beside the decoder's weights, kept with an import so that an export can put it back.

Config, tokenizer and notes as they are; the tensors that have no place here (vision tower, projector) in files of their
own, copied byte by byte; and the headers of the weight files, so that an unchanged model comes back as the same bytes.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from athanor.artifacts.files import write_json
from athanor.models.folder_files import INDEX_FILE
from athanor.models.huggingface_folder import Folder, open_folder
from athanor.models.safetensors_file import Header, SafetensorsWriter, parse_header, read_header, subset
from athanor.recipe.families import Described, read_config
from athanor.recipe.schema.choices import Balance, Router
from athanor.recipe.schema.training import Model

HUGGINGFACE = "huggingface"  # the folder beside the checkpoint
ORIGIN_FILE = "origin.json"
CARRIED = "carried"
SCHEMA_VERSION = 1
# Other copies of the weights would contradict them as soon as anything is trained: they are left behind.
OTHER_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx")


class OriginError(Exception):
    """A folder that is neither a Hugging Face model nor kept with an import."""


@dataclass(frozen=True)
class Place:
    """A file that has a tensor."""

    path: Path
    header: Header


@dataclass(frozen=True)
class Origin:
    """A Hugging Face folder as an export may look again."""

    path: Path
    described: Described
    headers: Mapping[str, Header]
    carried: Mapping[str, Place]  # by tensor
    model: Model | None  # of the checkpoint beside it, where one is

    def files(self) -> list[str]:
        """Names of the files to copy: all but weights, their index and what the import keeps for itself."""
        own = {ORIGIN_FILE, INDEX_FILE}
        return sorted(n for n in _plain_files(self.path) if n not in own and n not in self.headers)


def kept_bytes(folder: Folder) -> int:
    """What `keep` will take on the disk."""
    small = sum((folder.path / name).stat().st_size for name in _kept_files(folder))
    return small + sum(folder.entry(name).bytes for name in folder.carried)


def keep(folder: Folder, model: Model, into: Path) -> None:
    """Fill `into` with what `folder` has beside the decoder's weights; `model` is the decoder as it was imported.

    Finished files of an interrupted call are kept.
    """
    into.mkdir(parents=True, exist_ok=True)
    for name in _kept_files(folder):
        shutil.copyfile(folder.path / name, into / name)
    for name, header in folder.headers.items():
        tensors = [tensor for tensor in header.entries if tensor in folder.carried]
        target = into / CARRIED / name
        if not tensors or target.is_file():
            continue
        target.parent.mkdir(exist_ok=True)
        with SafetensorsWriter(target, subset(header, tensors)) as writer:
            for tensor in tensors:
                writer.copy(tensor, folder.path / name, header)
    headers = {name: header.text.decode() for name, header in folder.headers.items()}
    write_json(into / ORIGIN_FILE, {"schema_version": SCHEMA_VERSION, "model": asdict(model), "headers": headers})


def open_origin(path: Path) -> Origin:
    """A folder that `keep` filled, or any Hugging Face folder. Raises OriginError, FolderError or ConfigError."""
    if not (path / ORIGIN_FILE).is_file():
        folder = open_folder(path)
        places = {name: Place(path / name, header) for name, header in folder.headers.items()}
        return Origin(
            path, folder.described, folder.headers, {t: places[folder.file_of[t]] for t in sorted(folder.carried)}, None
        )
    try:
        record = json.loads((path / ORIGIN_FILE).read_text())
        headers = {name: parse_header(text.encode()) for name, text in record["headers"].items()}
        model = Model(**record["model"])
        model.router, model.balance = Router(model.router), Balance(model.balance)
    except (ValueError, KeyError, TypeError) as error:
        raise OriginError(f"{path / ORIGIN_FILE} cannot be read ({error}); import the folder again") from error
    carried: dict[str, Place] = {}
    for file in sorted((path / CARRIED).glob("*.safetensors")):
        place = Place(file, read_header(file))
        carried |= dict.fromkeys(place.header.entries, place)
    return Origin(path, read_config(path), headers, carried, model)


def copy_files(origin: Origin, into: Path) -> list[str]:
    """Copy config, tokenizer and the like; their names."""
    names = origin.files()
    for name in names:
        shutil.copyfile(origin.path / name, into / name)
    return names


def _kept_files(folder: Folder) -> Iterator[str]:
    yield from (name for name in _plain_files(folder.path) if name not in folder.headers)


def _plain_files(path: Path) -> Iterator[str]:
    with os.scandir(path) as entries:
        names = sorted(entry.name for entry in entries if entry.is_file() and entry.name[0] != ".")
    yield from (name for name in names if not name.endswith(OTHER_WEIGHTS))
