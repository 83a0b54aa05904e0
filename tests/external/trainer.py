"""Another trainer, at its smallest: knows nothing but the JSON file that it is given, adds 1 to every weight a step, and saves.

`settings.does` makes it misbehave: fail, hang, hurry (end before its budget), babble, or leave another result than was asked for.
"""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

STEPS = 8
stops: list[int] = []


def main(path: str) -> int:
    """As the handover says."""
    told = json.loads(Path(path).read_text())
    does = told["settings"].get("does", "")
    signal.signal(getattr(signal, told["stop"]["signal"]), lambda number, _: stops.append(number))
    print(f"rank {os.environ.get('RANK')} of {os.environ.get('WORLD_SIZE')} trains", flush=True)
    if os.environ.get("RANK", "0") != "0":
        return 0
    saved, start = Path(told["checkpoints"]) / "weights.safetensors", Path(told["inputs"]["start"]["path"])
    weights = load_file(saved if saved.is_file() else start / "model.safetensors")
    done = json.loads(saved.with_name("step.json").read_text()) if saved.is_file() else 0
    for step in range(done + 1, STEPS + 1):
        if does == "fail" and step == 3:
            print("CUDA out of memory: tried to allocate a crucible", flush=True)
            return 3
        weights = {name: weight + 1 for name, weight in weights.items()}
        save_file(weights, saved)
        saved.with_name("step.json").write_text(str(step))
        tell(told, "lead" if does == "babble" and step == 2 else {"reward": step / STEPS})
        while does in ("linger", "hang") and step == 4 and told["attempt"] == 1:
            time.sleep(0.05)
            if stops and does == "linger":
                return int(told["stop"]["exit_code"])
        if does == "hurry" and step == 6:
            break
    leave(weights, start, Path(told["output"]), does)
    return 0


def tell(told: dict[str, Any], values: object) -> None:
    """A line a step."""
    step = json.loads((Path(told["checkpoints"]) / "step.json").read_text())
    before = told["corpus"] or {"step": 0, "tokens": 0}
    more = step * (told["budget"]["tokens"] - before["tokens"]) // STEPS
    line = {"step": before["step"] + step, "tokens": before["tokens"] + more}
    with open(told["metrics"], "a") as file:
        file.write(json.dumps({**line, **values} if isinstance(values, dict) else values) + "\n")


def leave(weights: dict[str, np.ndarray], start: Path, output: Path, does: str) -> None:
    """The result, right or wrong."""
    name = sorted(weights)[0]
    if does == "reshape":
        weights[name] = weights[name].flatten()
    if does == "burn":
        weights[name][:] = np.nan
    if does == "drop":
        del weights[name]
    if does != "forget":
        shutil.copy(start / "config.json", output)
    save_file(weights, output / "model.safetensors")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
