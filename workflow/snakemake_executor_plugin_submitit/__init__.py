"""Snakemake executor plugin `submitit`: rules as Slurm or local jobs that outlive the process that submitted them.

The names that Snakemake's registry asks for are loaded on first use: every rank of every job imports this package to
unpickle its task, and must not pay for Snakemake's interfaces.
"""

import importlib
import os

# submitit configures logging when it is first imported, which closes every handler that Snakemake had opened by then.
os.environ.setdefault("SUBMITIT_LOG_LEVEL", "NOCONFIG")

_HOMES = {"Executor": "executor", "ExecutorSettings": "settings", "common_settings": "settings"}

__all__ = ["Executor", "ExecutorSettings", "common_settings"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
