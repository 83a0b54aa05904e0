"""What the end of a training job means: the rows that only training knows, asked before the executor's own table."""

from dataclasses import replace

from snakemake_executor_plugin_submitit.causes import TABLE, Evidence, Row, first_match
from snakemake_executor_plugin_submitit.journal import Action, Judgement

_GPU_MEMORY = r"torch\.(cuda\.)?OutOfMemoryError|CUDA out of memory|CUBLAS_STATUS_ALLOC_FAILED"
_GPU_FAULT = (
    r"uncorrectable (ECC|NVLink) error|GPU has fallen off the bus|GPU is lost|\bXid\b.*\b(48|63|64|74|79|94|95)\b|"
    r"CUDA error: (unspecified launch failure|an illegal instruction|hardware stack error|no CUDA-capable device)|"
    r"CUDA-capable device\(s\) is/are busy or unavailable|cudaErrorECCUncorrectable"
)
_COLLECTIVE = (
    r"Watchdog caught collective operation timeout|ncclSystemError|ncclRemoteError|ncclInternalError|"
    r"NCCL communicator was aborted|Connection closed by peer|Connection reset by peer|"
    r"Timed out waiting .*ms for (recv|send) operation|DistNetworkError|DistStoreError|Broken pipe"
)
_CRASH = (134, 135, 139)  # SIGABRT, SIGBUS, SIGSEGV

ROWS = (
    Row("non-finite loss", "the stage's own word", lambda e: e.kind == "non-finite loss", Action.ROLL_BACK),
    Row("hardware fault", "the stage's own word, with the node", lambda e: e.kind == "hardware fault", Action.ELSEWHERE),
    Row("unexplained result", "the stage's own word", lambda e: e.kind == "unexplained result", Action.ELSEWHERE),
    Row(
        "bad data",
        "the stage's own word",
        lambda e: e.kind == "bad data",
        Action.ASK,
        "look at the samples that it names, or set pretrain.spikes.action=skip",
    ),
    Row(
        "loss spikes",
        "the stage's own word",
        lambda e: e.kind == "loss spikes",
        Action.ASK,
        "look at the samples in skips.jsonl; lower pretrain.lr, or raise pretrain.spikes.most",
    ),
    Row("the stage refused", "the stage's own word", lambda e: e.kind == "refused", Action.STOP, "mend what it names"),
    Row("GPU fault", "ECC, Xid, a lost GPU, in a log", lambda e: e.mentions(_GPU_FAULT), Action.ELSEWHERE),
    Row(
        "out of GPU memory",
        "CUDA out of memory, in a log",
        lambda e: e.mentions(_GPU_MEMORY),
        Action.ASK,
        "set pretrain.parallel.micro_batch_size lower, or split the model over more ranks; neither retrains anything",
    ),
    Row(
        "collective failed", "NCCL's or gloo's words for a lost peer, in a log", lambda e: e.mentions(_COLLECTIVE), Action.RESTART
    ),
    Row("crashed", "SIGSEGV, SIGBUS, SIGABRT", lambda e: e.beats and e.exit_code in _CRASH, Action.ELSEWHERE),
)


def judge(evidence: Evidence) -> Judgement | None:
    """Return the judgement of the first row that matches; None leaves the attempt to the executor's table.

    That table starts again only what has marked its progress. Every stage here can be killed at any instruction, and one that is
    killed while it imports has no mark yet.
    """
    found = first_match(ROWS, evidence)
    return found if found or evidence.beats else first_match(TABLE, replace(evidence, beats=True))
