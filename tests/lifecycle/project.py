"""A whole project in a temporary folder: this checkout's workflow, a recipe that takes a minute, and its own store."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

CHECKOUT = Path(__file__).resolve().parents[2]
SITE = {
    "store": "store",
    "heartbeat_seconds": "1s",
    "environment": {"OMP_NUM_THREADS": "1"},
    "resources": {"default": {"cpus_per_task": 1, "memory": "2GB"}},
}
DEADLINE_SECONDS = 900


def recipe() -> dict[str, object]:
    """The lifecycle at its smallest: one local corpus, two layers, two ranks, two milestones."""
    return {
        "seed": 1,
        "data": {
            "licences_allowed": ["CC0-1.0"],
            "held_out_fraction": 0.1,
            "sources": {
                "prose": {
                    "kind": "local",
                    "path": "corpus/*.txt",
                    "licence": "CC0-1.0",
                    "domain": "prose",
                    "format": "text",
                }
            },
        },
        "tokenizer": {"vocab_size": 320, "sample_bytes": "1MB"},
        "model": {
            "num_layers": 2,
            "hidden_size": 32,
            "num_attention_heads": 2,
            "num_query_groups": 1,
            "head_dim": 16,
            "expert_ffn_size": 32,
            "vocab_size": 320,
            "max_sequence_length": 256,
        },
        "pretrain": {
            "milestone_tokens": [8192],
            "token_budget": 16384,
            "sequence_length": 32,
            "batch_tokens": 512,
            "warmup_tokens": 1024,
            "decay_tokens": 4096,
            "mixture": {"prose": 1},
            "validation_tokens": 512,
            "validate_every_tokens": 4096,
            "parallel": {"ranks": 2, "expert": 2, "micro_batch_size": 4},
            "checkpoint": {"every_tokens": 2048},
        },
        "evaluate": {"suites": ["held_out_perplexity"], "limit": 4},
    }


@dataclass(frozen=True)
class Project:
    """A checkout with its configuration and store."""

    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    before: tuple[str, ...] = ()
    """Words before every command, such as `setpriv` and its options."""

    @classmethod
    def make(cls, folder: Path, environment: Mapping[str, str] | None = None) -> "Project":
        """Lay out a fresh project with a corpus of its own."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("Snakefile", "rules", "profiles", "envs"):
            source = CHECKOUT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
        project = cls(folder, environment or {})
        (folder / "corpus").mkdir()
        for i in range(60):
            words = " ".join(f"the {noun} number {i * j} of the {noun}s." for j, noun in enumerate(_NOUNS))
            (folder / "corpus" / f"{i:03d}.txt").write_text(words * 3)
        project.write_recipe("tiny", recipe())
        project.write("config/sites/laptop.yaml", SITE)
        locked = project.athanor("recipe", "lock", "tiny")
        assert locked.returncode == 0, locked.stderr
        return project

    @property
    def store(self) -> Path:
        """The project's store."""
        return self.folder / "store"

    def copy(self, folder: Path) -> "Project":
        """Everything, store and all, in another place."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Project(folder)

    def write(self, path: str, data: object) -> None:
        """Write a YAML file of the project."""
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(yaml.safe_dump(data))

    def write_recipe(self, name: str, data: object) -> None:
        """Write `config/recipes/NAME.yaml`."""
        self.write(f"config/recipes/{name}.yaml", data)

    def snakemake(self, *arguments: str, seconds: float = DEADLINE_SECONDS) -> "subprocess.CompletedProcess[str]":
        """Run snakemake to its end."""
        return self._run(["-m", "snakemake", *arguments], seconds)

    def athanor(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run a command of athanor."""
        return self._run(["-m", "athanor", *arguments])

    def start_snakemake(self, *arguments: str) -> "subprocess.Popen[bytes]":
        """Start snakemake in a process group of its own."""
        with open(self.folder / "driver.log", "ab") as log:
            return subprocess.Popen(
                [*self.before, sys.executable, "-m", "snakemake", *arguments],
                cwd=self.folder,
                env=self._environment(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def to_run(self, *settings: str) -> list[str]:
        """Names of the artifacts a dry run would make."""
        done = self.snakemake("-n", *(["--config", *settings] if settings else []))
        assert done.returncode == 0, done.stderr
        return [line.split()[0] for line in done.stderr.splitlines() if line.startswith("  ") and "/" in line.split()[0]]

    def manifest(self, name: str, campaign: str = "tiny") -> dict[str, Any]:
        """The manifest of the campaign's artifact called `name`."""
        found: dict[str, Any] = json.loads((self.folder_of(name, campaign) / "manifest.json").read_text())
        return found

    def folder_of(self, name: str, campaign: str = "tiny") -> Path:
        """The folder of the campaign's artifact called `name`."""
        return next((self.store / "campaigns").glob(f"*/{campaign}/{name}")).resolve()

    def computed(self) -> dict[str, int]:
        """How often each artifact was computed to its end, by STAGE/FINGERPRINT: one `finished` record an attempt."""
        counts = {}
        for spool in self.store.glob("*/*/tracking/*.jsonl"):
            ends = sum('"status":"finished"' in line for line in spool.read_text().splitlines())
            name = spool.parent.parent.relative_to(self.store).as_posix()
            counts[name] = counts.get(name, 0) + ends
        return counts

    def kill_ranks(self, stage: str) -> int:
        """SIGKILL every rank of a running stage; returns how many there were."""
        ranks = self.ranks(stage)
        for rank in ranks:
            os.kill(rank, signal.SIGKILL)
        return len(ranks)

    def ranks(self, stage: str) -> list[int]:
        """The processes that run a stage now, and the launcher of such processes, oldest first."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if b"athanor" in words and stage.encode() in words and str(self.store).encode() in b"".join(words):
                found.append(int(path.parent.name))
        return sorted(found, key=lambda pid: psutil.Process(pid).create_time())

    def _run(self, arguments: list[str], seconds: float = DEADLINE_SECONDS) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*self.before, sys.executable, *arguments],
            cwd=self.folder,
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def _environment(self) -> dict[str, str]:
        outside = ("PYTEST", "COV_", "MLFLOW", "SLURM")  # a cluster of another test is not ours
        kept = {k: v for k, v in os.environ.items() if not k.startswith(outside)}
        return {**kept, **self.environment, "ATHANOR_PROJECT": str(self.folder), "PYTHONWARNINGS": "ignore"}


def wait_until(condition: object, what: str, seconds: float = DEADLINE_SECONDS) -> None:
    """Poll until `condition()` holds; fails loudly at the deadline."""
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, f"{what} did not happen in {seconds} s"
        time.sleep(0.05)


_NOUNS = ("furnace", "crucible", "retort", "alembic", "athanor", "salt", "quicksilver", "sulphur")
