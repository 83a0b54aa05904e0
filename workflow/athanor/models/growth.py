"""Weights of a larger model made of a smaller one's: more rows of the vocabulary, experts out of a dense layer.

New rows are the mean of the old ones (Hewitt 2021, "Initializing new word embeddings for pretrained language models"): the
model's probabilities for the old tokens then change least, where random rows could draw all of them. Experts are copies of
the dense layer (Komatsuzaki et al. 2022, arXiv:2212.05055): the weights of the chosen ones sum to one, so whatever the
router chooses the layer computes what it did.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from athanor.models.conversions import EMBEDDING, OUTPUT, ROUTER, Correspondence, Shape, correspondences, stacked_shape
from athanor.recipe.families import MOE, Family
from athanor.recipe.schema.training import Model

ROWS = 4096  # of the vocabulary that are summed at once
ROUTER_STD = 0.02  # of the logits' weights: the first tokens choose nearly evenly
_OF_EXPERT = re.compile(r"\.mlp\.experts\.\d+\.")


@dataclass(frozen=True)
class Growth:
    """From the model of a folder to the model that is wanted."""

    before: Model
    after: Model
    family: Family  # of the folder
    seed: int
    head_beside_tied: bool = False

    @property
    def upcycles(self) -> bool:
        """Whether experts are made of dense layers."""
        return bool(self.after.num_experts) and not self.before.num_experts


@dataclass(frozen=True)
class Piece:
    """A slice of a Megatron tensor, and how it is made of the folder's tensors."""

    megatron: str
    index: tuple[int, ...]
    shape: Shape  # of the slice
    stacked: Shape  # of the whole tensor
    sources: tuple[str, ...]
    make: Callable[[Sequence[torch.Tensor]], torch.Tensor]


def pieces(growth: Growth) -> Iterator[Piece]:
    """Every slice of the wanted model, in the order of the folder."""
    family = growth.family.with_layers(MOE) if growth.upcycles else growth.family
    for piece in correspondences(growth.after, family, head_beside_tied=growth.head_beside_tied):
        sources, make = tuple(name for name, _ in piece.huggingface), piece.join
        if growth.upcycles and piece.megatron == ROUTER:
            sources, make = (), _router(piece, growth.seed)
        elif growth.upcycles:
            sources = tuple(_OF_EXPERT.sub(".mlp.", name) for name in sources)
        if piece.megatron in (EMBEDDING, OUTPUT) and growth.after.vocab_size > growth.before.vocab_size:
            make = _longer(piece)
        yield Piece(piece.megatron, piece.index, piece.shape, stacked_shape(piece, growth.after), sources, make)


def extend_rows(rows: torch.Tensor, count: int) -> torch.Tensor:
    """[n, h] → [count, h]: the old rows as they are, then their mean, taken in float64."""
    total = torch.zeros(rows.shape[1], dtype=torch.float64)
    for part in rows.split(ROWS):
        total += part.double().sum(dim=0)
    longer = rows.new_empty(count, rows.shape[1])
    longer[: len(rows)] = rows
    longer[len(rows) :] = (total / len(rows)).to(rows.dtype)
    return longer


def _longer(piece: Correspondence) -> Callable[[Sequence[torch.Tensor]], torch.Tensor]:
    return lambda parts: extend_rows(piece.join(parts), piece.shape[0])


def _router(piece: Correspondence, seed: int) -> Callable[[Sequence[torch.Tensor]], torch.Tensor]:
    def draw(_: Sequence[torch.Tensor]) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1_000_003 * seed + piece.index[0])
        return torch.randn(piece.shape, generator=generator) * ROUTER_STD

    return draw
