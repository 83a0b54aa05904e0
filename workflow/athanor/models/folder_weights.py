"""The weights of a Hugging Face folder, read one by one as they are asked for."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from athanor.models.folder_files import FolderError, weight_files
from athanor.models.safetensors_file import read_header, read_tensor


class FolderWeights(Mapping[str, torch.Tensor]):
    """By their names in the folder; memory is one tensor's."""

    def __init__(self, folder: Path) -> None:
        """Raises FolderError where files are missing, SafetensorsError where one is not whole."""
        problems: list[str] = []
        names = weight_files(folder, problems)
        if problems:
            raise FolderError(folder, problems)
        self.folder = folder
        self._headers = {name: read_header(folder / name) for name in names}
        self._file_of = {tensor: name for name, header in self._headers.items() for tensor in header.entries}

    def __getitem__(self, name: str) -> torch.Tensor:
        file = self._file_of[name]
        return read_tensor(self.folder / file, self._headers[file], name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)
