"""One rank of a stage whose state is a hash chain: `python chain.py NAME STEPS`, with RANK and WORLD_SIZE set.

Step N makes the state sha256(state, N), so a step that is lost, doubled or taken from another state changes the result.
All ranks keep within one save of each other, so one that hangs stops them all. Saves on SIGTERM and exits 75; marks its
progress; writes to `violations` when it finds itself running twice.
"""

import fcntl
import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

STEP_SECONDS, SAVE_EVERY, MARK_SECONDS = 0.04, 10, 0.3
RANK, RANKS = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def main(name: str, steps: int) -> int:
    """Run this rank to the end of the chain; return the exit code."""
    folder = Path("chain") / name
    folder.mkdir(parents=True, exist_ok=True)
    alone = (folder / f"lock-{RANK}").open("w")
    try:
        fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        with Path("violations").open("a") as violations:
            violations.write(f"rank {RANK} of {name} runs twice at once\n")
        return 1
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stop.append(number))
    step, state = load(folder, RANK)
    marked = 0.0
    while step < steps:
        if stop:
            save(folder, step, state)
            return 75
        state = hashlib.sha256(f"{state}{step}".encode()).hexdigest()
        step += 1
        time.sleep(STEP_SECONDS)
        if RANK == 0 and time.monotonic() - marked > MARK_SECONDS:
            marked = time.monotonic()
            mark(step, steps)
        if step % SAVE_EVERY == 0:
            save(folder, step, state)
            while not stop and any(load(folder, other)[0] < step for other in range(RANKS)):
                time.sleep(0.02)
    save(folder, steps, state)
    while any(load(folder, other)[0] < steps for other in range(RANKS)):
        if stop:
            return 75
        time.sleep(0.02)
    if RANK == 0:
        replace(Path(f"{name}.result"), " ".join(load(folder, other)[1] for other in range(RANKS)) + "\n")
    return 0


def load(folder: Path, rank: int) -> tuple[int, str]:
    """How far a rank's saved chain is, and its state."""
    try:
        saved = json.loads((folder / f"saved-{rank}.json").read_text())
    except FileNotFoundError:
        return 0, f"rank {rank}"
    return saved["step"], saved["state"]


def save(folder: Path, step: int, state: str) -> None:
    """Keep the state for the next start."""
    replace(folder / f"saved-{RANK}.json", json.dumps({"step": step, "state": state}))


def mark(step: int, steps: int) -> None:
    """Tell the executor how far the chain is."""
    content = {"time": time.time(), "done": step, "total": steps, "unit": "steps"}
    replace(Path(os.environ["SUBMITIT_ATTEMPT_FOLDER"]) / "heartbeat-chain.json", json.dumps(content))


def replace(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text)
    os.replace(draft, path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
