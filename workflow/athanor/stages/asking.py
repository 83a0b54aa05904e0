"""Questions out of conversations, asked of an exported model and judged: what stages `answers`, `rollouts` and `labels` share."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from athanor.artifacts.run import StageError, StageRun, Stopped
from athanor.data.chat import ChatEncoder
from athanor.data.conversations import Conversation, answer_of, question_of
from athanor.models.folder_files import MODEL_FOLDER
from athanor.recipe.schema.choices import RolloutEngine
from athanor.rl.answers import Answer
from athanor.rl.judging import Judges, Said
from athanor.rl.rollouts.in_process import InProcessEngine
from athanor.rl.rollouts.sampling import Engine, Finish, Prompt, Sampling
from athanor.rl.rollouts.served import ServerEngine
from athanor.rl.rollouts.server import Server
from athanor.rl.rollouts.shards import Order, read_samples, roll_out


@dataclass(frozen=True)
class Question:
    """A conversation whose first answer is asked for."""

    task: str
    conversation: Conversation

    @property
    def id(self) -> str:
        """As prompts are called; no task's name has a slash."""
        return f"{self.task}/{self.conversation.id}"


class Asked:
    """Questions that leave room for an answer, to one model."""

    def __init__(self, stage: StageRun, questions: Iterable[Question], max_new_tokens: int, setting: str) -> None:
        """Raises StageError where no question fits; `setting` is the key to lower then."""
        self._stage, self.model = stage, stage.input_named("model")
        self._encoder, self.judge = ChatEncoder(self._folder), Judges()
        room = stage.recipe.model.max_sequence_length - max_new_tokens
        self.questions: dict[str, Question] = {}
        self.prompts: list[Prompt] = []
        self.too_long = 0
        for question in questions:
            prompt = Prompt(question.id, self._encoder.prompt(*question_of(question.conversation)))
            if len(prompt.tokens) > room:
                self.too_long += 1
                continue
            self.prompts.append(prompt)
            self.questions[prompt.id] = question
        if not self.prompts:
            raise StageError(f"no question leaves room for {setting}={max_new_tokens} in the model's positions; lower it")

    @property
    def _folder(self) -> Path:
        return self.model.folder / MODEL_FOLDER

    def sample(self, sampling: Sampling, folder: Path, done: int, total: int) -> list[Answer]:
        """Ask every question, in shards below `folder`; `done` of `total` were asked before, for the progress. Raises Stopped."""
        stage = self._stage

        def progress(asked: int, _of: int) -> None:
            stage.progress(done + asked, total, "questions")
            if stage.stop_requested and done + asked < total:
                raise Stopped(
                    f"{stage.stage} of {stage.instance} after {done + asked} of {total} questions; finished shards are kept"
                )

        shards = roll_out(self.prompts, Order(self.model.fingerprint, sampling), self._engine, folder, progress)
        return self._judged(shards)

    def counters(self, answers: Sequence[Answer]) -> dict[str, int]:
        """What was asked and what came back, for the manifest."""
        return {
            "questions": len(self.prompts),
            "too_long": self.too_long,
            "answers": len(answers),
            "right": sum(answer.right for answer in answers),
            "verifier_errors": self.judge.broken,
        }

    def _engine(self) -> Engine:
        return engine_of(self._stage, self._folder, self._encoder.ends)

    def _judged(self, shards: list[Path]) -> list[Answer]:
        samples = list(read_samples(shards))
        texts = [self._encoder.decode(sample.tokens) for sample in samples]
        ended = [place for place, sample in enumerate(samples) if sample.finish is Finish.STOP]
        said = [said_by(self.questions[samples[place].prompt].conversation, texts[place]) for place in ended]
        right = {place for place, verdict in zip(ended, self.judge.judge(said), strict=True) if verdict.right}
        answers = []
        for place, (sample, text) in enumerate(zip(samples, texts, strict=True)):
            asked = self.questions[sample.prompt]
            conversation, size = asked.conversation, len(sample.tokens)
            question, expected = question_of(conversation)[0][-1]["content"], answer_of(conversation)
            log_prob = sum(sample.log_probs) / len(sample.log_probs)
            facts = (sample.number, question, text, expected, sample.finish, size, log_prob, place in right)
            answers.append(Answer(asked.task, conversation.id, *facts))
        return answers


def said_by(conversation: Conversation, text: str) -> Said:
    """An answer to the conversation's question, as judges take it."""
    return Said(text, answer_of(conversation), conversation.entry)


def rates(answers: Sequence[Answer]) -> dict[str, float]:
    """The share of answers that are right, and of those that were cut off or ran in a loop."""
    right, cut = sum(answer.right for answer in answers), sum(answer.finish is not Finish.STOP for answer in answers)
    return {"pass_rate": right / len(answers), "cut": cut / len(answers)}


def engine_of(stage: StageRun, folder: Path, ends: Sequence[int]) -> Engine:
    """What answers with the model of `folder`; `ends`: tokens that end an answer. Raises StageError without a server to start."""
    if stage.recipe.rollouts.engine is RolloutEngine.IN_PROCESS:
        return InProcessEngine(folder, ends)
    site = stage.site
    if not (site and site.server_command):
        raise StageError("rollouts.engine=server, and the site has no server_command; set it, or use in_process")
    return ServerEngine(Server(site.server_command, folder, stage.folder / "server.log", site.server_seconds), ends)
