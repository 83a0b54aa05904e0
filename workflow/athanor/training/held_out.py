"""What is held out of training, and how its losses are told."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from athanor.artifacts.files import write_json
from athanor.artifacts.strict_json import finite
from athanor.training.samples import Sample

VALIDATION = "validation.json"
START_VALIDATION = "validation_start.json"  # of the weights that another stage trained


@dataclass(frozen=True)
class HeldOut:
    """Held-out samples of one domain, equally long, and the UTF-8 bytes of the tokens in them that count."""

    samples: Sequence[Sample]
    bytes: int


@dataclass(frozen=True)
class DomainLoss:
    """Mean loss of a domain. Bits per byte = nats / (ln 2 * bytes): comparable between tokenizers."""

    nats_per_token: float
    tokens: int
    bits_per_byte: float


def domain_loss(nats: float, tokens: int, text_bytes: int) -> DomainLoss:
    """Of so many tokens, whose text is `text_bytes` long; without text there are no bits per byte (nan)."""
    bits = nats * tokens / (math.log(2) * text_bytes) if text_bytes else math.nan
    return DomainLoss(nats, tokens, bits)


def write_validation(path: Path, losses: Mapping[str, DomainLoss]) -> None:
    """`validation.json`: domain → nats_per_token, tokens, bits_per_byte."""
    write_json(path, finite({domain: asdict(loss) for domain, loss in losses.items()}))
