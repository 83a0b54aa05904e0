"""Caches that programs keep in HOME unless they are told otherwise; on a cluster they eat its quota."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from athanor.cluster.findings import Finding, ok, warning

_NOTICED_BYTES = 100_000_000
_SECONDS_A_CACHE = 3.0  # file servers are slow, and a cache may have a million files


@dataclass(frozen=True)
class Cache:
    """One program's cache: its folder below HOME, and the variable that moves it."""

    folder: str
    variable: str


CACHES = (
    Cache(".cache/huggingface", "HF_HOME"),
    Cache(".cache/pip", "PIP_CACHE_DIR"),
    Cache(".cache/uv", "UV_CACHE_DIR"),
    Cache(".cache/torch", "TORCH_HOME"),
    Cache(".cache/torch_extensions", "TORCH_EXTENSIONS_DIR"),
    Cache(".cache/vllm", "VLLM_CACHE_ROOT"),
    Cache(".triton", "TRITON_CACHE_DIR"),
    Cache(".nv/ComputeCache", "CUDA_CACHE_PATH"),
    Cache(".apptainer", "APPTAINER_CACHEDIR"),
    Cache(".singularity", "SINGULARITY_CACHEDIR"),
    Cache(".conda/pkgs", "CONDA_PKGS_DIRS"),
    Cache("nltk_data", "NLTK_DATA"),
)


def check_caches(home: Path, environment: Mapping[str, str], elsewhere: Path, on_cluster: bool) -> list[Finding]:
    """The caches in `home` that are worth moving; `elsewhere` is where the advice moves them."""
    findings = []
    for cache in CACHES:
        folder = home / cache.folder
        if not folder.is_dir() or not folder.resolve().is_relative_to(home.resolve()):
            continue  # a link out of HOME is a way to move it, too
        size, is_all = size_of(folder)
        if size < _NOTICED_BYTES:
            continue
        found = f"{'' if is_all else 'more than '}{size / 1e9:.1f} GB in {folder}"
        if not on_cluster:
            findings.append(ok(found))
            continue
        moved = environment.get(cache.variable, "")
        here = not moved or Path(moved).is_relative_to(home)
        way = f"export {cache.variable}={elsewhere / Path(cache.folder).name.lstrip('.')} in your shell's start-up file, then "
        findings.append(warning(found, f"{way if here else ''}rm -r {folder}"))
    return findings or [ok(f"no large caches in {home}")]


def size_of(folder: Path, seconds: float = _SECONDS_A_CACHE) -> tuple[int, bool]:
    """Bytes of the files in `folder`, and whether all were counted: after `seconds` it stops."""
    end, total = time.monotonic() + seconds, 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(f"{place}/{name}").st_blocks * 512  # hard links and holes cost nothing twice
            except FileNotFoundError:
                continue  # its program is just deleting it
        if time.monotonic() > end:
            return total, False
    return total, True
