"""The one door to lm-eval: runs the tasks of a suites folder on a Hugging Face model and hands back scores.

Everything is offline; nothing is downloaded, and no dataset is cached.
"""

import logging
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from athanor.evaluation.scores import Score, ratio_stderr
from athanor.evaluation.tasks import Metric, OutputType, Task

OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE", "TRANSFORMERS_OFFLINE")
LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def prepare_environment(cache: Path) -> None:
    """Keep the Hugging Face libraries off the network, their caches in `cache`, and accelerate out of process groups.

    Call it before the first of them is imported. One process evaluates; with the launcher's variables set, accelerate would
    open a port to meet ranks that do not exist.
    """
    os.environ.update(dict.fromkeys(OFFLINE, "1"))
    os.environ["HF_HOME"] = str(cache)
    os.environ["HF_DATASETS_CACHE"] = str(cache / "datasets")
    for name in LAUNCHER:
        os.environ.pop(name, None)


class Evaluator:
    """A Hugging Face folder, loaded once and asked any number of suites."""

    def __init__(self, model: Path, batch_size: int, on_batch: Callable[[], None]) -> None:
        """`batch_size` sequences go through the model at once. `on_batch` is called before each; it may raise to stop."""
        import torch
        from lm_eval.models.huggingface import HFLM
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        logging.getLogger("lm_eval").setLevel(logging.ERROR)  # its warnings are advice about options we set on purpose
        on_gpu = torch.cuda.is_available()  # then the model is spread over all GPUs there are
        device = "cuda" if on_gpu else "cpu"
        self._model = HFLM(pretrained=str(model), device=device, batch_size=batch_size, parallelize=on_gpu)
        self._model.model.register_forward_pre_hook(lambda *_: on_batch())

    def run(self, tasks: Sequence[Task], suites: Path) -> list[Score]:
        """Scores of `tasks`, which were written to the folder `suites`, metric by metric."""
        from lm_eval.evaluator import evaluate  # simple_evaluate adds pip, git and lscpu: 0.75 s a call
        from lm_eval.tasks import TaskManager

        loaded = TaskManager(include_path=str(suites), include_defaults=False).load([task.name for task in tasks])
        # No metric here is bootstrapped, but 0 iterations would leave out the accuracies' analytic errors as well.
        results = evaluate(lm=self._model, task_dict=loaded, bootstrap_iters=1)
        if results is None:
            raise RuntimeError("lm-eval returned no results: it takes this process for a rank above 0; unset RANK and WORLD_SIZE")
        return [
            _score(task, metric, results["results"][task.name], results["samples"][task.name])
            for task in tasks
            for metric in task.metrics
        ]


def _score(task: Task, metric: Metric, result: dict[str, Any], samples: list[dict[str, Any]]) -> Score:
    value = float(result[f"{metric.name},none"])
    if task.output_type is OutputType.LOGLIKELIHOOD_ROLLING:
        stderr = _perplexity_stderr(metric.name, value, [sample[metric.name] for sample in samples])
    else:
        stderr = float(result[f"{metric.name}_stderr,none"])
    return Score(task.suite, task.name, metric.name, value, stderr, metric.chance, metric.higher_is_better, len(samples))


def _perplexity_stderr(metric: str, value: float, weighted: Sequence[tuple[float, float]]) -> float:
    """Over documents; lm-eval has none. `weighted`: (log-likelihood in nats, bytes or words) of each document.

    Bits per byte is a ratio of sums, whose error ratio_stderr states. A perplexity is exp of such a ratio r, and its
    error is exp(r) times r's (delta method).
    """
    nats = ratio_stderr([-loglikelihood for loglikelihood, _ in weighted], [weight for _, weight in weighted])
    return nats / math.log(2) if metric == "bits_per_byte" else value * nats
