"""A campaign's spools, written as its stages would write them: fetch, tokenize, pretrain, export, evaluate."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from athanor.tracking.spool import Spool, Status

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000 1f15c4890000000d49444154789c63f8cfc0f01f0005000201"
    "5f7d2b5d0000000049454e44ae426082".replace(" ", "")
)


@dataclass(frozen=True)
class Artifact:
    """One artifact of the synthetic campaign."""

    stage: str
    instance: str

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits, the same in every run."""
        return hashlib.sha256(f"{self.stage}/{self.instance}".encode()).hexdigest()[:16]

    @property
    def path(self) -> str:
        """Its store-relative folder."""
        return f"{self.stage}/{self.fingerprint}"


FETCH, TOKENIZER = Artifact("fetch", "wiki_en"), Artifact("tokenizer", "bpe")
TOKENIZE, INITIALIZE = Artifact("tokenize", "wiki_en-0"), Artifact("initialize", "model")
PRETRAIN, EXPORT, EVALUATE = Artifact("pretrain", "400K"), Artifact("export", "400K"), Artifact("evaluate", "400K")
REPORT = Artifact("report", "campaign")
CAMPAIGN = [FETCH, TOKENIZER, TOKENIZE, INITIALIZE, PRETRAIN, EXPORT, EVALUATE, REPORT]
PATHS = [artifact.path for artifact in CAMPAIGN]
UPSTREAMS: dict[Artifact, dict[str, Artifact]] = {
    TOKENIZER: {"wiki_en": FETCH},
    TOKENIZE: {"documents": FETCH, "tokenizer": TOKENIZER},
    PRETRAIN: {"start": INITIALIZE, "wiki_en-0": TOKENIZE},
    EXPORT: {"checkpoint": PRETRAIN, "tokenizer": TOKENIZER},
    EVALUATE: {"model": EXPORT, "wiki_en": FETCH},
    REPORT: {"scores-400K": EVALUATE, "400K": PRETRAIN},
}


def open_spool(store: Path, artifact: Artifact, attempt: int = 1, start_step: int | None = None) -> Spool:
    """The spool of one attempt, with its start record."""
    spool = Spool(store / artifact.path / "tracking" / f"{attempt:03d}.jsonl")
    upstreams = {
        name: {"stage": u.stage, "instance": u.instance, "fingerprint": u.fingerprint}
        for name, u in UPSTREAMS.get(artifact, {}).items()
    }
    record = {
        "stage": artifact.stage,
        "instance": artifact.instance,
        "fingerprint": artifact.fingerprint,
        "attempt": attempt,
        "params": {"seed": 1, "model": {"hidden_size": 128}, "lr": 3e-3},
        "upstreams": upstreams,
        "host": "node-1",
        "versions": {"torch": "2.13.0"},
        "git_commit": "0123456789ab",
    }
    spool.start(record if start_step is None else {**record, "start_step": start_step})
    return spool


def log_curve(spool: Spool, steps: Iterable[int]) -> None:
    """A falling loss and a rising token count."""
    for step in steps:
        spool.metrics(step, {"loss/train": 8.0 / (1 + step) ** 0.3, "tokens": 2048.0 * step})


def write_campaign(store: Path, points: int = 40) -> None:
    """Every artifact, finished at the first attempt."""
    for artifact in CAMPAIGN:
        spool = open_spool(store, artifact)
        _work(spool, artifact, points, store / artifact.path)
        spool.end(Status.FINISHED, seconds=1.5, counters={"tokens": 400_000})
        spool.close()


def _work(spool: Spool, artifact: Artifact, points: int, folder: Path) -> None:
    if artifact == FETCH:
        profile = {"num_rows": 1200, "bytes": 1_000_000, "licence": "CC-BY-SA-4.0"}
        spool.dataset("wiki_en", artifact.fingerprint, "pip:wiki-en", "fetch", profile)
    if artifact == PRETRAIN:
        log_curve(spool, range(1, points + 1))
        spool.model("pretrain-400K", points, "checkpoint", {"tokens": 400_000}, "megatron")
    if artifact == EXPORT:
        spool.model("400K", points, "model", {"dtype": "fp32"}, "huggingface")
    if artifact == EVALUATE:
        spool.metrics(points, {"mmlu_dev/accuracy": 0.27, "wiki_en/bits_per_byte": 1.83})
    if artifact == REPORT:
        (folder / "loss.png").write_bytes(PNG)
        spool.artifact("loss.png", "Loss over tokens")
