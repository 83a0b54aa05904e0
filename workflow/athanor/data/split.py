"""Which documents are held out: a pure function of what a document is about, so the same in every source."""

import hashlib
import unicodedata

from athanor.data.documents import Document


def subject(document: Document) -> str:
    """What the split goes by: the entity, or the text where there is none, without case, spacing or Unicode variants.

    Folding can only put more documents into one group (the SMILES `CO` and `Co`), so it costs a little freedom of the
    split and can never let a held-out subject into training.
    """
    folded = unicodedata.normalize("NFKC", document.entity or document.text).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def is_held_out(document: Document, fraction: float, seed: int) -> bool:
    """Whether a document is never trained on.

    Every subject is a point of [0, 1) given by a hash keyed with `seed`; the points below `fraction` are held out.
    """
    digest = hashlib.blake2b(
        subject(document).encode(), digest_size=8, key=seed.to_bytes(16, "little"), person=b"held-out"
    ).digest()
    return int.from_bytes(digest, "little") < int(fraction * 2**64)
