"""Peak memory of a conversion, both ways, against the size of the folder: bounded by the largest tensor, not by the folder.

Two random Qwen3-MoE folders with the same largest tensor (the embedding) and different numbers of layers are written in
shards; each becomes a Megatron checkpoint and a folder again, in a process of its own, whose peak is counted from what it
had after its imports. The peer is transformers: from_pretrained, then save_pretrained. Aims: the peak is at most
AIM_TENSORS largest tensors, the larger folder's at most AIM_GROWTH of the smaller one's, and the bytes come back the same.

    python benchmarks/conversion.py [--quick] [--json FILE] [--seed N]
"""

import argparse
import filecmp
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
AIM_TENSORS, AIM_GROWTH = 4.0, 1.2
SHARD_BYTES = 40_000_000
MEGABYTE = 1e6


@dataclass(frozen=True)
class Row:
    """One conversion of one folder; memory in MB above what the process had before."""

    what: str
    folder_mb: float
    shards: int
    largest_mb: float
    peak_mb: float
    seconds: float


def main() -> int:
    """Measure, print the table and the aims; exit 1 where one is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="folders of 0.1 and 0.3 GB instead of 0.25 and 1 GB")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--seed", type=int, default=0, help="of the weights")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)  # what, from, to: the process that is measured
    arguments = parser.parse_args()
    if arguments.measure:
        return measured(*arguments.measure)
    rows, same = [], True
    with tempfile.TemporaryDirectory() as scratch:
        for layers in (1, 5) if arguments.quick else (4, 19):
            folder = write_folder(Path(scratch) / f"layers-{layers}", layers, arguments.seed)
            rows += [convert(what, folder) for what in ("to megatron", "to huggingface", "transformers")]
            same &= identical(folder, folder.with_name(f"{folder.name}-back"))
    missed = report(rows, same)
    if arguments.json:
        machine = {"cpu": platform.processor(), "cores": os.cpu_count(), "python": platform.python_version()}
        result = {"machine": machine, "rows": [asdict(row) for row in rows], "missed": missed}
        arguments.json.write_text(json.dumps(result, indent=1))
    return int(bool(missed))


def write_folder(folder: Path, layers: int, seed: int) -> Path:
    """A random folder of many shards."""
    import torch
    from transformers import Qwen3MoeConfig

    from athanor.models.conversions import correspondences
    from athanor.models.safetensors_file import SafetensorsWriter
    from athanor.models.weight_files import headers, plan_shards, write_index
    from athanor.recipe.families import QWEN3_MOE, read_config

    config = Qwen3MoeConfig(
        architectures=[QWEN3_MOE], vocab_size=16384, hidden_size=512, intermediate_size=512, moe_intermediate_size=512,
        num_hidden_layers=layers, num_attention_heads=8, num_key_value_heads=4, head_dim=64, num_experts=16,
        num_experts_per_tok=4, norm_topk_prob=True, dtype=torch.float32,
    )  # fmt: skip
    config.save_pretrained(folder)
    described = read_config(folder)
    table = list(correspondences(described.model, described.family))
    layout = headers(plan_shards(table, 4, SHARD_BYTES), lambda _: torch.float32)
    generator = torch.Generator().manual_seed(seed)
    for name, header in layout.items():
        with SafetensorsWriter(folder / name, header) as writer:
            for tensor, entry in header.entries.items():
                writer.put(tensor, torch.randn(entry.shape, generator=generator))
    write_index(folder, layout)
    return folder


def convert(what: str, folder: Path) -> Row:
    """One conversion in a fresh process."""
    from athanor.models.huggingface_folder import open_folder

    imported, back = (folder.with_name(f"{folder.name}-{name}") for name in ("import", "back"))
    places = {
        "to megatron": (folder, imported),
        "to huggingface": (imported, back),
        "transformers": (folder, folder.with_name(f"{folder.name}-peer")),
    }
    command = [sys.executable, __file__, "--measure", what, *map(str, places[what])]
    print(f"  {folder.name} {what} …", file=sys.stderr, flush=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{what} of {folder.name} ended with {done.returncode}:\n{done.stderr}")
    peak, seconds = json.loads(done.stdout.splitlines()[-1])
    opened = open_folder(folder)
    largest = max(entry.bytes for header in opened.headers.values() for entry in header.entries.values())
    sizes = (opened.weight_bytes / MEGABYTE, len(opened.headers), largest / MEGABYTE)
    return Row(what, *sizes, peak / MEGABYTE, seconds)


def measured(what: str, source: str, into: str) -> int:
    """Convert in this process; print its peak memory above what it had before (bytes), and seconds."""
    from transformers import AutoModelForCausalLM, Qwen3MoeForCausalLM  # noqa: F401 (its code is loaded on first use)

    from athanor.training.conversion import Wishes, to_huggingface, to_megatron

    before = forget_peak()
    began = time.monotonic()
    if what == "transformers":
        AutoModelForCausalLM.from_pretrained(source).save_pretrained(into, max_shard_size=SHARD_BYTES)
    else:
        print((to_megatron if what == "to megatron" else to_huggingface)(Path(source), Path(into), Wishes()))
    print(json.dumps([memory("VmHWM") - before, time.monotonic() - began]))
    return 0


def forget_peak() -> int:
    """Let the kernel count this process's peak from now on; what it has now, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


def memory(name: str) -> int:
    """A size of /proc/self/status, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def identical(one: Path, other: Path) -> bool:
    """Whether both folders have the same files with the same bytes."""
    names = sorted(path.name for path in one.iterdir())
    _, differ, broken = filecmp.cmpfiles(one, other, names, shallow=False)
    return names == sorted(path.name for path in other.iterdir()) and not differ and not broken


def report(rows: list[Row], same: bool) -> list[str]:
    """The table and the aims on stdout; those that were missed."""
    print("| conversion | folder MB | shards | largest tensor MB | peak MB | peak / largest | peak / folder | seconds |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for row in rows:
        print(
            f"| {row.what} | {row.folder_mb:,.0f} | {row.shards} | {row.largest_mb:.0f} | {row.peak_mb:,.0f} "
            f"| {row.peak_mb / row.largest_mb:.1f} | {row.peak_mb / row.folder_mb:.2f} | {row.seconds:.1f} |"
        )
    ours = [row for row in rows if row.what != "transformers"]
    most = max(row.peak_mb / row.largest_mb for row in ours)
    growth = max(b.peak_mb / a.peak_mb for a, b in zip(ours[:2], ours[2:], strict=True))
    aims = {
        f"peak at most {AIM_TENSORS} largest tensors: {most:.1f}": most <= AIM_TENSORS,
        f"the larger folder's peak at most {AIM_GROWTH} of the smaller one's: {growth:.2f}": growth <= AIM_GROWTH,
        "every file comes back with the same bytes": same,
    }
    for aim, met in aims.items():
        print(f"aim: {aim}: {'met' if met else 'missed'}")
    return [aim for aim, met in aims.items() if not met]


if __name__ == "__main__":
    sys.exit(main())
