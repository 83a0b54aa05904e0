"""Training speed on this CPU: our loop against Hugging Face's Trainer at its best, on the same model, samples and schedule.

Ours trains with two ranks that share the experts. The peer trains the exported Qwen3-MoE from the same weights with
{eager, grouped_mm} experts on {1, 2} processes (a single process gets two threads). Aims: at least AIM_RATIO times
the best peer's tokens/s, and a final loss within AIM_LOSS nats of it.

    python benchmarks/pretrain.py [--quick] [--json FILE] [--seed N] [--figure FILE.svg]
"""

import argparse
import json
import os
import pickle
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT / "workflow"), str(CHECKOUT)]

from athanor.recipe.loading import load_recipe  # noqa: E402
from athanor.recipe.schema import Recipe, TokenOrder  # noqa: E402, F401
from benchmarks.pretrain_rank import Order  # noqa: E402

AIM_RATIO = 1.0  # our tokens/s over the best peer's
AIM_LOSS = 0.02  # nats between the final losses: rounding, since everything else is the same
