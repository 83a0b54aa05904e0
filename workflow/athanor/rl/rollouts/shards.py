"""Rollouts on disk: a file a shard of prompts, each complete or not there, so that a killed stage goes on with the next."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from athanor.artifacts.run import StageError
from athanor.rl.rollouts.sampling import Engine, Finish, Prompt, Sample, Sampling

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Order:
    """What is sampled: the first line of every shard, so that no sample is without the model and the settings it comes from."""

    model: str  # fingerprint of the artifact whose weights answer
    sampling: Sampling
    prompts_a_shard: int = 256


def roll_out(
    prompts: Sequence[Prompt], order: Order, engine: Callable[[], Engine], folder: Path, on_shard: Callable[[int, int], None]
) -> list[Path]:
    """Sample every prompt into shards below `folder`; those of an earlier attempt are kept. Returns their paths, in order.

    `engine` is called once something is to be sampled. `on_shard` is told (prompts done, prompts in all). Raises StageError where
    a shard is of another order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    header = json.dumps({"schema_version": SCHEMA_VERSION, **asdict(order)}, sort_keys=True)
    paths: list[Path] = []
    opened: Engine | None = None
    try:
        for begin in range(0, len(prompts), order.prompts_a_shard):
            some = prompts[begin : begin + order.prompts_a_shard]
            path = folder / f"shard-{begin // order.prompts_a_shard:05d}.jsonl"
            if not path.is_file():
                opened = opened or engine()
                _write(path, header, opened.generate(some, order.sampling))
            else:
                _require(path, header)
            paths.append(path)
            on_shard(begin + len(some), len(prompts))
    finally:
        if opened is not None:
            opened.close()
    return paths


def read_samples(paths: Sequence[Path]) -> Iterator[Sample]:
    """The samples of shards, by prompt as they were ordered and number."""
    for path in paths:
        with path.open(encoding="utf-8") as lines:
            next(lines)
            for line in lines:
                row = json.loads(line)
                yield Sample(row["prompt"], row["number"], tuple(row["tokens"]), tuple(row["log_probs"]), Finish(row["finish"]))


def _write(path: Path, header: str, samples: Iterator[Sample]) -> None:
    """Sorted, since engines give samples in any order."""
    rows = [vars(sample) for sample in sorted(samples, key=lambda sample: (sample.prompt, sample.number))]
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join(f"{line}\n" for line in (header, *map(json.dumps, rows))), encoding="utf-8")
    os.replace(partial, path)


def _require(path: Path, header: str) -> None:
    with path.open(encoding="utf-8") as lines:
        found = next(lines, "").rstrip("\n")
    if found != header:
        raise StageError(f"{path} was sampled with {found or 'nothing said'}, wanted is {header}; move it away to sample anew")
