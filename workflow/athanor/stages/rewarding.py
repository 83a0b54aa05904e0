"""What a round's answers earn: each by the one who rewards its prompt."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace

from athanor.artifacts.run import StageRun
from athanor.models.folder_files import MODEL_FOLDER
from athanor.recipe.schema.choices import Route
from athanor.recipe.schema.online import Online
from athanor.rewards.polar.scoring import Scorer
from athanor.rewards.polar.template import Item
from athanor.rewards.scores import Rules
from athanor.rl.judging import Judges, Said
from athanor.rl.online.prompts import Pooled
from athanor.rl.online.rounds import Answered
from athanor.rl.rollouts.sampling import Finish


class Rewarder:
    """Of one rank; verifiers and the reward model are started when a prompt asks for them."""

    def __init__(self, stage: StageRun, settings: Online) -> None:
        self._stage, self._settings = stage, settings
        self._judges, self._rules = Judges(), Rules(settings.forbidden)
        self._forbidden = [re.compile(pattern) for pattern in settings.forbidden]
        self._scorer: Scorer | None = None

    def reward(self, answers: Sequence[Answered], asked: Mapping[int, Pooled]) -> list[Answered]:
        """The answers with what they earned; `asked` are the prompts by slot."""
        found = {answer.id: answer for answer in answers}
        for route, rewarded in ((Route.VERIFIER, self._verified), (Route.REWARD_MODEL, self._scored), (Route.RULES, self._ruled)):
            some = [answer for answer in answers if answer.route == route]
            if some:
                found.update((answer.id, answer) for answer in rewarded(some, asked))
        return [self._allowed(found[answer.id], list(found.values())) for answer in answers]

    def close(self) -> None:
        """End what was started."""
        self._judges.close()

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
        if self._scorer is None:
            self._scorer = Scorer(self._stage.input_named("reward").folder / MODEL_FOLDER)
        items = [Item(asked[a.slot].question, asked[a.slot].expected, a.text) for a in answers]
        scores = self._scorer.score_items(items)
        return [replace(answer, reward=score) for answer, score in zip(answers, scores, strict=True)]

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
