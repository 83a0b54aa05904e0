"""What a round's answers earn: each by the one who rewards its prompt."""

import os
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from athanor.artifacts.run import StageError, StageRun
from athanor.models.folder_files import MODEL_FOLDER
from athanor.recipe.schema.choices import RewardEngine, Route
from athanor.recipe.schema.online import Online
from athanor.rewards.judge import Judge, JudgeError
from athanor.rewards.polar.scoring import Scorer
from athanor.rewards.polar.template import Item
from athanor.rewards.scores import Rules
from athanor.rl.judging import Judges, Said
from athanor.rl.online.prompts import Pooled
from athanor.rl.online.rounds import Answered
from athanor.rl.rollouts.sampling import Finish
from athanor.stages.reward_server import RewardServer

AT_ONCE = 256  # answers, between two signs of life
JUDGE_KEY = "ATHANOR_JUDGE_KEY"  # in the environment


class Rewarder:
    """Of one rank; verifiers, the reward model and the judge are there once a prompt asks for them."""

    def __init__(self, stage: StageRun, settings: Online) -> None:
        self._stage, self._settings = stage, settings
        self._judges, self._rules = Judges(), Rules(settings.forbidden)
        self._forbidden = [re.compile(pattern) for pattern in settings.forbidden]
        self._scorer: Scorer | RewardServer | None = None
        self._judge: Judge | None = None

    def reward(
        self, answers: Sequence[Answered], asked: Mapping[int, Pooled], on_part: Callable[[], None] = lambda: None
    ) -> list[Answered]:
        """The answers with what they earned; `asked` are the prompts by slot, those of other ranks among them.

        All ranks call it together. Raises StageError where a server or an endpoint stays away.
        """
        if self._scorer is None and any(prompt.route is Route.REWARD_MODEL for prompt in asked.values()):
            self._scorer = self._reward_model()
        found = {answer.id: answer for answer in answers}
        for route, rewarded in (
            (Route.VERIFIER, self._verified),
            (Route.REWARD_MODEL, self._scored),
            (Route.JUDGE, self._graded),
            (Route.RULES, self._ruled),
        ):
            some = [answer for answer in answers if answer.route == route]
            for begin in range(0, len(some), AT_ONCE):
                found.update((answer.id, answer) for answer in rewarded(some[begin : begin + AT_ONCE], asked))
                on_part()
        return [self._allowed(found[answer.id], list(found.values())) for answer in answers]

    def close(self) -> None:
        """End what was started."""
        self._judges.close()
        if isinstance(self._scorer, RewardServer):
            self._scorer.close()

    def _verified(self, answers: Sequence[Answered], asked: Mapping[int, Pooled]) -> list[Answered]:
        """1 for what ended by itself and is right."""
        ended = [answer for answer in answers if answer.finish == Finish.STOP]
        said = [Said(a.text, asked[a.slot].expected, asked[a.slot].entry) for a in ended]
        verdicts = dict(zip((answer.id for answer in ended), self._judges.judge(said), strict=True))
        found = []
        for answer in answers:
            verdict = verdicts.get(answer.id)
            right = verdict is not None and verdict.right
            trouble = verdict.trouble if verdict is not None else ""
            found.append(replace(answer, right=right, reward=float(right), trouble=trouble))
        return found

    def _scored(self, answers: Sequence[Answered], asked: Mapping[int, Pooled]) -> list[Answered]:
        """The reward model's own number, beside the answer on record: it has neither scale nor zero over prompts."""
        assert self._scorer is not None
        scores = self._scorer.score_items(_items(answers, asked))
        return [replace(answer, reward=score) for answer, score in zip(answers, scores, strict=True)]

    def _reward_model(self) -> Scorer | RewardServer:
        model = self._stage.input_named("reward")
        if self._settings.reward_engine is RewardEngine.SERVER:
            return RewardServer(self._stage, model.folder / MODEL_FOLDER, model.fingerprint)
        return Scorer(model.folder / MODEL_FOLDER)

    def _graded(self, answers: Sequence[Answered], asked: Mapping[int, Pooled]) -> list[Answered]:
        """The grade of the model that judges, 0 to 1; nothing for an answer that speaks to it, or that was cut off."""
        settings = self._settings.judge
        if self._judge is None:
            url = self._stage.site.judge_url if self._stage.site else ""
            self._judge = Judge(url, settings.model, settings.rubric, settings.max_new_tokens, os.environ.get(JUDGE_KEY, ""))
        ended = [answer for answer in answers if answer.finish == Finish.STOP]
        try:
            verdicts = self._judge.judge(_items(ended, asked))
        except JudgeError as error:
            raise StageError(f"the model that judges: {error}") from error
        if troubled := [verdict.trouble for verdict in verdicts if verdict.trouble]:
            print(f"{len(troubled)} of {len(answers)} answers were not graded, the first: {troubled[0]}", flush=True)
        found = {answer.id: answer for answer in answers}
        for answer, verdict in zip(ended, verdicts, strict=True):
            found[answer.id] = replace(answer, reward=verdict.score, trouble=verdict.trouble)
        return [found[answer.id] for answer in answers]

    def _ruled(self, answers: Sequence[Answered], asked: Mapping[int, Pooled]) -> list[Answered]:
        """The weighted mean of the rules, 0 to 1."""
        weights = self._settings.rule_weights
        found = []
        for answer in answers:
            by_rule = self._rules.score(answer.text, right=False, whole=answer.finish == Finish.STOP)
            scores = {
                "fluency": by_rule.fluency,
                "safety": by_rule.safety,
                "brevity": 1.0 - len(answer.tokens) / self._settings.max_new_tokens,
                "script": script_share(answer.text, asked[answer.slot].expected),
            }
            total = sum(weights.values())
            reward = sum(weights[name] * scores[name] for name in weights) / total if total else 0.0
            found.append(replace(answer, reward=reward))
        return found

    def _allowed(self, answer: Answered, others: Sequence[Answered]) -> Answered:
        """Nothing for what is forbidden; where nothing is no lowest reward, the lowest of its group."""
        if not any(pattern.search(answer.text) for pattern in self._forbidden):
            return answer
        if answer.route != Route.REWARD_MODEL:
            return replace(answer, reward=0.0)
        group = [other.reward for other in others if other.slot == answer.slot]
        return replace(answer, reward=min(group))


def _items(answers: Sequence[Answered], asked: Mapping[int, Pooled]) -> list[Item]:
    return [Item(asked[answer.slot].question, asked[answer.slot].expected, answer.text) for answer in answers]


def script_share(text: str, like: str) -> float:
    """Of the letters of `text`, the share whose script `like` is written in: 1 where it has none."""
    known = {_script(letter) for letter in like if letter.isalpha()}
    letters = [letter for letter in text if letter.isalpha()]
    if not letters or not known:
        return 1.0
    return sum(_script(letter) in known for letter in letters) / len(letters)


def _script(letter: str) -> str:
    """The first word of its name in Unicode: LATIN, CYRILLIC, CJK …"""
    return unicodedata.name(letter, "").partition(" ")[0]
