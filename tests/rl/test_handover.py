"""Weights reach the engine whole, whichever it is, and what it answered with them is kept."""

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from athanor.artifacts.run import StageError, StageRun
from athanor.recipe.schema.choices import RolloutEngine
from athanor.recipe.schema.post_training import Rollouts
from athanor.recipe.schema.recipe import Recipe
from athanor.recipe.server_command import problem_with_reload
from athanor.recipe.site import Site
from athanor.rl.rollouts.handover import checksum
from athanor.rl.rollouts.in_process import InProcessEngine
from athanor.rl.rollouts.sampling import Prompt, Sample, Sampling
from athanor.stages.handover import HANDOVER, Ahead, Answerer, Weights
from athanor.training.deepspeed.model_folder import read_model, write_model
from tests.rl.test_rollouts import END, folder, prompts

__all__ = ["folder", "prompts"]  # fixtures
COMMAND = f"{sys.executable} -m tests.rl.completions_server {{model}} {{port}} {{name}} {END}"
SAMPLING = Sampling(2, 0.0, max_new_tokens=8)


def moved(folder: Path) -> Weights:
    random = torch.Generator().manual_seed(1)
    return {n: w.detach() + 0.05 * torch.randn(w.shape, generator=random) for n, w in read_model(folder).named_parameters()}


def answerer(folder: Path, scratch: Path, engine: RolloutEngine, **of_site: Any) -> Answerer:
    recipe = Recipe(rollouts=Rollouts(engine=engine))
    site = replace(Site(), **{"server_command": COMMAND, "server_seconds": 120, **of_site})
    stage = StageRun(recipe, "online", "model", "0" * 16, scratch, {}, site=site)
    return Answerer(stage, folder, [END], lambda weights, path: write_model(folder, weights, path))


def asked(prompts: list[Prompt]) -> list[Prompt]:
    return [prompt for prompt in prompts if len(prompt.tokens) > 1][:6]


def by_id(samples: list[Sample]) -> dict[tuple[str, int], tuple[int, ...]]:
    return {(sample.prompt, sample.number): sample.tokens for sample in samples}


def never() -> Weights:
    raise AssertionError("what is answered already needs no weights")


def test_every_engine_answers_with_what_it_was_given(folder: Path, prompts: list[Prompt], tmp_path: Path) -> None:
    weights, some = moved(folder), asked(prompts)
    has = checksum(weights)
    found = {}
    for engine in RolloutEngine:
        (scratch := tmp_path / engine).mkdir()
        one = answerer(folder, scratch, engine)
        first = {n: w.detach() for n, w in read_model(folder).named_parameters()}
        before = by_id(one.answer(some, SAMPLING, scratch / "first", lambda first=first: first, checksum(first)))  # type: ignore[misc]
        found[engine] = by_id(one.answer(some, SAMPLING, scratch / "shards", lambda: weights, has))
        assert found[engine] != before
        assert by_id(one.answer(some, SAMPLING, scratch / "shards", never, has)) == found[engine], "kept shards"
        one.close()
        assert not (scratch / HANDOVER).exists()
    assert found[RolloutEngine.IN_PROCESS] == found[RolloutEngine.SERVER]


@pytest.mark.parametrize(("where", "starts"), [("{model}", 1), ("elsewhere", 2)])
def test_running_server_reads_other_weights_or_is_started_again(
    folder: Path, prompts: list[Prompt], tmp_path: Path, where: str, starts: int
) -> None:
    count, some = tmp_path / "starts", asked(prompts)
    first, other = ({n: w.detach() for n, w in read_model(folder).named_parameters()}, moved(folder))
    request = f'/reload {{{{"model_path": "{where}"}}}}'
    command = f"{COMMAND} --count {count}"
    one = answerer(folder, tmp_path, RolloutEngine.SERVER, server_command=command, server_reload=[request])
    before = by_id(one.answer(some, SAMPLING, tmp_path / "first", lambda: first, checksum(first)))
    behind = by_id(one.answer(some, SAMPLING, tmp_path / "other", lambda: other, checksum(other)))
    one.close()
    assert count.read_text().count("started") == starts
    inside = InProcessEngine(folder, [END])
    assert before == by_id(list(inside.generate(some, SAMPLING)))
    inside.load(other)
    assert behind == by_id(list(inside.generate(some, SAMPLING))) != before


@pytest.mark.parametrize(
    ("request_of_it", "said"),
    [
        ("reload", "does not begin with the path of a request"),
        ("/reload {model}", "has no JSON behind its path"),
        ('/reload {{"a": "{port}"}}', "has {port}; a stage fills in {model}"),
        ('/collective_rpc {{"method": "reload_weights"}}', ""),
        ("/reset_prefix_cache", ""),
    ],
)
def test_request_that_reloads_is_a_path_and_json(request_of_it: str, said: str) -> None:
    found = problem_with_reload(request_of_it)
    assert said in found and bool(said) == bool(found)


@pytest.mark.parametrize("engine", list(RolloutEngine))
def test_other_weights_than_were_said_are_refused(
    folder: Path, prompts: list[Prompt], tmp_path: Path, engine: RolloutEngine
) -> None:
    one = answerer(folder, tmp_path, engine)
    with pytest.raises(StageError, match="memory may be faulty"):
        one.answer(asked(prompts), SAMPLING, tmp_path / "shards", lambda: moved(folder), "f" * 16)


@pytest.mark.parametrize("fails", [False, True])
def test_what_is_done_ahead_is_waited_for_and_its_error_is_raised(fails: bool) -> None:
    done, marks = [], []

    def work(mark: Callable[[], None]) -> None:
        if fails:
            raise StageError("no server")
        mark()
        time.sleep(2.5)  # longer than the wait looks for marks
        done.append(1)

    ahead = Ahead(work)
    if fails:
        with pytest.raises(StageError, match="no server"):
            ahead.wait()
    else:
        ahead.wait(lambda: marks.append(1))
        assert done == [1] and len(marks) <= 1
