"""Megatron's weights, as whoever answers reads them: a Hugging Face folder for each round, which all ranks write together."""

import os
import shutil
from pathlib import Path

import torch.distributed as dist

from athanor.models.conversions import EMBEDDING, correspondences, type_among
from athanor.models.folder_weights import FolderWeights
from athanor.models.huggingface import configuration, copy_tokenizer, special_tokens
from athanor.models.restore import MAX_SHARD_BYTES
from athanor.models.weight_files import headers, open_checkpoint, plan_shards, write_index, write_weights
from athanor.recipe.families import family_of
from athanor.recipe.schema.training import Model
from athanor.training.optimizer import Learner
from athanor.training.rounds import Weights
from athanor.training.sharded_state import save_weights

KEPT = 2  # folders: one is answered with while the next is made
GENERATION = "generation_config.json"


class RoundWeights:
    """Makes them below `into`. Whatever layout learns, the files are the same."""

    def __init__(self, learner: Learner, model: Model, start: Path, into: Path) -> None:
        """`start` is the folder of what training began with: its tokenizer goes along."""
        self._learner, self._model, self._start, self._into = learner, model, start, into

    def take(self, step: int) -> FolderWeights:
        """The weights as they are behind `step`, in the type that they have. On all ranks together."""
        folder, sharded = self._into / f"{step:08d}", self._into / f".{step:08d}.sharded"
        first = dist.get_rank() == 0
        if first:
            self._forget(folder)
            for path in (folder, sharded):
                shutil.rmtree(path, ignore_errors=True)
                path.mkdir(parents=True)
        dist.barrier()
        self._learner.settle()
        save_weights([chunk.module for chunk in self._learner.chunks], sharded)
        table = list(correspondences(self._model, family_of(self._model)))
        source = open_checkpoint(sharded, self._model, table)
        dtype = source.dtype(EMBEDDING)
        layout = headers(plan_shards(table, dtype.itemsize, MAX_SHARD_BYTES), lambda name: type_among(name, dtype))
        own = dict(list(layout.items())[dist.get_rank() :: dist.get_world_size()])
        write_weights(folder, own, source, table, lambda _done, _of: None)
        if first:
            copy_tokenizer(self._start, folder)
            configuration(self._model, dtype, *special_tokens(folder)).save_pretrained(folder)
            shutil.copyfile(self._start / GENERATION, folder / GENERATION)
            write_index(folder, layout)
        dist.barrier()
        if first:
            shutil.rmtree(sharded)
        return FolderWeights(folder)

    def finish(self, step: int, into: Path) -> None:
        """The folder `into` of the last weights, whole where it has its name; all others go. On all ranks together."""
        weights = self.take(step)
        if dist.get_rank() == 0:
            beside = into.with_name(f".{into.name}.writing")
            for path in (beside, into):
                shutil.rmtree(path, ignore_errors=True)
            beside.mkdir()
            hand_on(weights, beside)
            os.replace(beside, into)
            shutil.rmtree(self._into)
        dist.barrier()

    def _forget(self, folder: Path) -> None:
        """Folders of rounds that nobody answers with any more."""
        there = sorted(path for path in self._into.glob("[0-9]*") if path != folder)
        undone = [path for path in there if path.name > folder.name]  # a resume is behind those
        earlier = [path for path in there if path.name < folder.name]
        for path in (*undone, *earlier[: len(earlier) - KEPT + 1]):
            shutil.rmtree(path)
        for draft in self._into.glob(".*.sharded"):
            shutil.rmtree(draft)


def hand_on(weights: Weights, into: Path) -> None:
    """The folder of `weights` once more, without a second copy of its bytes where the file system can."""
    assert isinstance(weights, FolderWeights)
    for path in weights.folder.iterdir():
        try:
            (into / path.name).hardlink_to(path)
        except OSError:
            shutil.copyfile(path, into / path.name)
