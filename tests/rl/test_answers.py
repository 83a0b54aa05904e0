"""Answers: which are right, how sure a rate is, shards that are kept, and a page on which they are found."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from athanor.artifacts.run import StageError
from athanor.rl.answers import Answer, PassRate, pass_rates
from athanor.rl.browser import write_samples
from athanor.rl.rollouts.sampling import Finish, Prompt, Sample, Sampling
from athanor.rl.rollouts.shards import Order, read_samples, roll_out

ANSWER = Answer("names", "m1", 0, "Name CCO.", "ethanol", "ethanol", Finish.STOP, 3, -0.1, True)


def test_error_of_a_rate_is_that_of_a_mean_over_questions() -> None:
    """Four samples of one question that are all right are one fact, not four."""
    answers = [replace(ANSWER, prompt=f"m{p}", number=n, right=p < 2) for p in range(8) for n in range(4)]
    [rate] = pass_rates(answers, {"names": 0.125, "none": 0.0})
    assert (rate.prompts, rate.samples, rate.rate, rate.constant) == (8, 4, 0.25, 0.125)
    assert rate.stderr == pytest.approx((0.25 * 0.75 * 8 / 7 / 8) ** 0.5)
    cut = PassRate.of("names", [ANSWER, replace(ANSWER, number=1, finish=Finish.LOOP, right=False)], 0.0)
    assert (cut.rate, cut.cut, cut.stderr) == (0.5, 0.5, 0.0)


class Parrot:
    """An engine that says the prompt again, and breaks down behind so many prompts."""

    def __init__(self, breaks_behind: int = 10**9) -> None:
        self.answered: list[str] = []
        self.closed = False
        self._left = breaks_behind

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Sample]:
        """The last prompt first: no order is promised."""
        for prompt in reversed(prompts):
            if self._left <= 0:
                raise RuntimeError("the engine died")
            self._left -= 1
            self.answered.append(prompt.id)
            for number in range(sampling.samples):
                yield Sample(prompt.id, number, prompt.tokens, tuple(-0.5 for _ in prompt.tokens), Finish.STOP)

    def close(self) -> None:
        """Note it."""
        self.closed = True


PROMPTS = [Prompt(f"p{i:02d}", (i, i + 1)) for i in range(10)]
ORDER = Order("0123456789abcdef", Sampling(samples=2, seed=3), prompts_a_shard=4)


def test_dead_engine_costs_its_shard_alone_and_the_end_is_the_same(tmp_path: Path) -> None:
    whole = roll_out(PROMPTS, ORDER, Parrot, tmp_path / "whole", lambda *_: None)
    dying, told = Parrot(breaks_behind=6), []
    with pytest.raises(RuntimeError, match="the engine died"):
        roll_out(PROMPTS, ORDER, lambda: dying, tmp_path / "killed", lambda done, total: told.append((done, total)))
    assert dying.closed and told == [(4, 10)]
    again = Parrot()
    shards = roll_out(PROMPTS, ORDER, lambda: again, tmp_path / "killed", lambda *_: None)
    assert sorted(again.answered) == [prompt.id for prompt in PROMPTS[4:]], "the first shard is kept"
    assert [path.read_bytes() for path in shards] == [path.read_bytes() for path in whole]
    assert {(s.prompt, s.number) for s in read_samples(shards)} == {(p.id, n) for p in PROMPTS for n in range(2)}


def test_every_shard_says_which_model_and_settings_it_is_of(tmp_path: Path) -> None:
    [first, *_] = roll_out(PROMPTS, ORDER, Parrot, tmp_path, lambda *_: None)
    header = json.loads(first.read_text().splitlines()[0])
    assert header["model"] == ORDER.model and header["sampling"]["seed"] == 3
    other = replace(ORDER, model="fedcba9876543210")
    with pytest.raises(StageError, match="move it away to sample anew"):
        roll_out(PROMPTS, other, Parrot, tmp_path, lambda *_: None)


def test_page_holds_every_answer_and_no_text_of_one_is_markup(tmp_path: Path) -> None:
    hostile = "</script><script>alert(1)</script>"
    write_samples(
        tmp_path / "samples.html",
        "tiny <b>",
        [asdict(ANSWER), asdict(replace(ANSWER, text=hostile)) | {"scores": {"fluency": 0.5}}],
    )
    page = (tmp_path / "samples.html").read_text()
    assert "tiny &lt;b&gt;" in page and "<b>" not in page
    begin = page.index('id="answers">') + len('id="answers">')
    rows = json.loads(page[begin : page.index("</script>", begin)])
    assert [row["text"] for row in rows] == ["ethanol", hostile] and rows[0]["right"] is True
