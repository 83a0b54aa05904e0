"""Small stages that do what real ones do: make bytes, stop, fail, hang. Also a program that runs one in its own process."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from athanor.artifacts.execution import Order, execute
from athanor.artifacts.run import Outcome, StageError, StageRun, Stopped

COMPUTED = "computed.txt"  # a line a computation: not part of the result
DEADLINE_SECONDS = 60.0


def await_file(path: Path) -> None:
    """Wait until `path` is there."""
    until(path.exists, f"{path} to appear")


def until(condition: Callable[[], object], what: str) -> None:
    """Wait until `condition` holds. Raises TimeoutError."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {DEADLINE_SECONDS:g} s for {what}")
        time.sleep(0.01)


def computations(folder: Path) -> list[str]:
    """A line for every time a fake stage ran in `folder`."""
    path = folder / COMPUTED
    return path.read_text().splitlines() if path.exists() else []


def bake(stage: StageRun) -> Outcome:
    """Writes one file and a folder of two, the same whenever it runs."""
    with open(stage.folder / COMPUTED, "a") as file:
        file.write(f"rank {stage.rank} attempt {stage.attempt}\n")
    if stage.rank == 0:
        (stage.folder / "loaf.txt").write_text(f"loaf of {stage.fingerprint}\n")
        (stage.folder / "crumbs" / "fine").mkdir(parents=True, exist_ok=True)
        (stage.folder / "crumbs" / "big").write_bytes(b"\0" * 3000)
        (stage.folder / "crumbs" / "fine" / "dust").write_bytes(b"")
    stage.spool.metrics(1, {"crust": 0.5})
    return Outcome(("loaf.txt", "crumbs"), counters={"loaves": 1, "flour": "rye"}, metrics={"crust": 0.5})


def bake_at_the_gate(stage: StageRun) -> Outcome:
    """As bake, once the file `gate` is in the folder; says with the file `begun` that it waits for it."""
    (stage.folder / "loaf.txt").write_text("half a loaf")
    (stage.folder / "begun").touch()
    await_file(stage.folder / "gate")
    return bake(stage)


def bake_until_stopped(stage: StageRun) -> Outcome:
    """Says with the file `begun` that it runs, and stops when it is asked to."""
    (stage.folder / "begun").touch()
    until(lambda: stage.stop_requested, "SIGTERM")
    (stage.folder / "saved").touch()
    raise Stopped("after the first loaf")


def burn(stage: StageRun) -> Outcome:
    """Fails for a reason the user can mend."""
    raise StageError("oven.temperature=900: above 300; turn it down")


def crash(stage: StageRun) -> Outcome:
    """Fails for a reason nobody foresaw."""
    raise ZeroDivisionError("no flour")


def promise(stage: StageRun) -> Outcome:
    """Names a file it never wrote."""
    return Outcome(("bread.txt",))


def main(fake: str, stage: str, recipe: str, manifest: str) -> int:
    """Run the fake stage `fake` as `athanor stage` would."""
    order = Order(stage, Path(recipe), "laptop", {}, Path(manifest))
    return execute(order, globals()[fake])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
