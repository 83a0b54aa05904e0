"""Conversations made from the records of a source: the turns of a task filled in, or whole ones that a record holds."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b
from itertools import groupby
from pathlib import Path
from typing import Any

from athanor.artifacts.run import StageError
from athanor.data.documents import Document, JsonlWriter, is_utf8, read_rows
from athanor.data.formats.record import Record
from athanor.data.functions import documented_functions
from athanor.data.sources.reasoning_gym_problems import ENTRY
from athanor.data.split import is_held_out
from athanor.data.template import Template
from athanor.recipe.schema.choices import Extract, Responses, SourceKind
from athanor.recipe.schema.post_training import SftTask
from athanor.recipe.schema.recipe import Data, Source

TRAINING_FILE, HELD_OUT_FILE = "train.jsonl.gz", "held_out.jsonl.gz"
SELECTED = (Responses.BEST, Responses.DRAWN)  # of what models answered
ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class Conversation:
    """Messages as chat templates take them: role, content, and an assistant's reasoning_content and tool_calls."""

    id: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] = field(default_factory=list)
    entry: dict[str, Any] = field(default_factory=dict)  # what the verifier of its generator wants to know, where it has one
    repeat: int = 0  # how often it stood in the same file before, perhaps asked otherwise

    def texts(self) -> Iterator[str]:
        """Every text that is said in it."""
        for value in (self.messages, self.tools):
            yield from _texts(value)

    def row(self) -> dict[str, Any]:
        """As it is written; most have no entry, and stand there once."""
        optional = {"entry": self.entry, "repeat": self.repeat}
        return {name: value for name, value in asdict(self).items() if optional.get(name, True)}


@dataclass
class Made:
    """What became of the records of a task's source."""

    conversations: int = 0  # to train on
    held_out_conversations: int = 0
    records: int = 0  # of the source, or functions found in it
    missing_field: int = 0  # a field of a template is absent or blank
    malformed: int = 0  # no conversation: an unknown role, no answer, text that is not UTF-8
    special_tokens: int = 0  # a text holds the name of a special token, by which a turn would end
    duplicates: int = 0  # what was asked first was asked before
    beyond_cap: int = 0  # more than `max_conversations`

    def counters(self) -> dict[str, int | str]:
        """The counts, for the manifest."""
        return dict(vars(self))


def write_conversations(
    records: Iterable[Record],
    source: Source,
    task: SftTask,
    data: Data,
    special_tokens: Sequence[str],
    folder: Path,
    progress: Callable[[int], None],
) -> Made:
    """Write `train.jsonl.gz` and `held_out.jsonl.gz` below `folder`, each in an order that a hash of the ids decides.

    A conversation is held out where the document it comes from is held out of pretraining. Raises StageError where nothing is
    left to train on or to hold out.
    """
    made, kept = Made(), {False: list[Conversation](), True: list[Conversation]()}
    asked: set[bytes] = set()
    found = sorted(
        _conversations(records, source, task, data, made, progress), key=lambda pair: _place(pair[0].id, data.split_seed)
    )
    for conversation, held_out in found:
        # Equal questions would have several answers, or one twice.
        first = blake2b(json.dumps(question_of(conversation)[0]).encode(), digest_size=16).digest()
        if any(token in text for text in conversation.texts() for token in special_tokens):
            made.special_tokens += 1
        elif first in asked:
            made.duplicates += 1
        elif task.max_conversations and len(asked) >= task.max_conversations:
            made.beyond_cap += 1
        else:
            asked.add(first)
            kept[held_out].append(conversation)
    made.conversations, made.held_out_conversations = len(kept[False]), len(kept[True])
    if not all(kept.values()):
        raise StageError(
            f"{made.conversations} conversations to train on and {made.held_out_conversations} held out, of {made.records} "
            f"records ({made.missing_field} lack a field of a template, {made.malformed} are no conversation, "
            f"{made.special_tokens} hold a special token, {made.duplicates} ask what was asked before); mend the task's "
            f"templates, or raise held_out_fraction={data.held_out_fraction}"
        )
    for name, held_out in ((TRAINING_FILE, False), (HELD_OUT_FILE, True)):
        with JsonlWriter(folder / name) as writer:
            for conversation in kept[held_out]:
                writer.write(conversation.row())
    return made


def _conversations(
    records: Iterable[Record], source: Source, task: SftTask, data: Data, made: Made, progress: Callable[[int], None]
) -> Iterator[tuple[Conversation, bool]]:
    """Every conversation with whether it is held out."""
    text, entity = Template(source.template), Template(source.entity)
    turns = [_FilledTurn(task, number) for number in range(len(task.turns))]
    for record in records:
        # What has no text for pretraining stands for itself: nothing of it was trained on.
        document = Document(record.id, text.fill(record.fields) or record.id, entity.fill(record.fields) or "")
        held_out = is_utf8(document.text + document.entity) and is_held_out(document, data.held_out_fraction, data.split_seed)
        parts = documented_functions(record) if task.extract is Extract.FUNCTIONS else [record]
        for part in parts:
            made.records += 1
            progress(made.records)
            conversation = _made_of(part, turns, task) if turns else _held_by(part, task)
            if conversation is None:
                made.missing_field += 1
            elif not _is_whole(conversation):
                made.malformed += 1
            else:
                generated = source.kind is SourceKind.REASONING_GYM
                yield replace(conversation, entry=record.fields[ENTRY]) if generated else conversation, held_out


class _FilledTurn:
    """The templates of one turn of a task."""

    def __init__(self, task: SftTask, number: int) -> None:
        turn = task.turns[number]
        self.prompts = [Template(prompt) for prompt in turn.prompts]
        self.thinking, self.response = Template(turn.thinking), Template(turn.response)

    def fill(self, record: Record, phrasing: int) -> list[dict[str, Any]] | None:
        """The two messages; None where a field is missing."""
        prompt = self.prompts[phrasing % len(self.prompts)].fill(record.fields)
        thinking, response = self.thinking.fill(record.fields), self.response.fill(record.fields)
        if prompt is None or thinking is None or response is None:
            return None
        said = {"role": "assistant", "content": response.strip(), **({"reasoning_content": thinking} if thinking else {})}
        return [{"role": "user", "content": prompt.strip()}, said]


def other_phrasings(
    records: Iterable[Record],
    task: SftTask,
    wanted: Mapping[str, Conversation],
    special_tokens: Sequence[str],
    progress: Callable[[int], None],
) -> dict[str, list[Conversation]]:
    """The conversations `wanted`, by id, in every other way that the task's prompts ask what they ask, in the prompts' order.

    `records` are those the task's conversations were made of. A way that lacks a field of the record, or says a special token, is
    left out.
    """
    turns = [_FilledTurn(task, number) for number in range(len(task.turns))]
    ways = max((len(turn.prompts) for turn in turns), default=1)
    found: dict[str, list[Conversation]] = {}
    for number, record in enumerate(records, start=1):
        progress(number)
        for part in documented_functions(record) if task.extract is Extract.FUNCTIONS else [record]:
            one = wanted.get(part.id)
            if one is None or (made := _made_of(part, turns, task)) is None or made.messages != one.messages:
                continue  # of two records with one id the other is meant
            others = (_made_of(part, turns, task, way) for way in range(1, ways))
            whole = (other for other in others if other is not None and _is_whole(other))
            found[part.id] = [
                replace(one, messages=other.messages)
                for other in whole
                if not any(token in text for text in other.texts() for token in special_tokens)
            ]
    return found


def _made_of(record: Record, turns: Sequence[_FilledTurn], task: SftTask, way: int = 0) -> Conversation | None:
    """`way`: so many prompts further than the one that falls to the record."""
    phrasing = int.from_bytes(blake2b(record.id.encode(errors="replace"), digest_size=4, person=b"phrasing").digest(), "little")
    phrasing += way
    messages = [{"role": "system", "content": task.system}] if task.system else []
    for turn in turns:
        if (filled := turn.fill(record, phrasing)) is None:
            return None
        messages += filled
    return Conversation(record.id, messages)


def _held_by(record: Record, task: SftTask) -> Conversation | None:
    messages, tools = record.fields.get(task.messages), record.fields.get(task.tools) if task.tools else None
    if not isinstance(messages, list) or not messages:
        return None
    system = [{"role": "system", "content": task.system}] if task.system else []
    return Conversation(record.id, [*system, *messages], list(tools or []))


def _is_whole(conversation: Conversation) -> bool:
    """Whether a chat template can write it, and something is answered."""
    if not all(isinstance(message, Mapping) and message.get("role") in ROLES for message in conversation.messages):
        return False
    spoken = all(
        isinstance(message.get("content"), str) or message["role"] == "assistant" and message.get("tool_calls")
        for message in conversation.messages
    )
    return bool(_answers(conversation)) and spoken and all(map(is_utf8, conversation.texts()))


def question_of(conversation: Conversation) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The messages before the first answer, and the tools that it may call."""
    roles = [message["role"] for message in conversation.messages]
    return conversation.messages[: roles.index("assistant")], conversation.tools


def answer_of(conversation: Conversation) -> str:
    """What the first answer says."""
    return str(_answers(conversation)[0].get("content") or "")


def exchange_responses(conversations: Sequence[Conversation], seed: int) -> Iterator[Conversation]:
    """Every conversation with the answers of another: the negative control. Lengths and wording of the answers stay as they are.

    Among conversations with equally many answers, in an order that `seed` decides, each takes the next one's. One that is alone
    with its number is left out: its answers are nobody else's. What is repeated has the same wrong answers each time.
    """
    taken: dict[str, Conversation] = {}
    for conversation in _exchanged([c for c in conversations if not c.repeat], seed):
        taken[conversation.id] = conversation
        yield conversation
    for conversation in sorted((c for c in conversations if c.repeat), key=lambda c: (c.repeat, _place(c.id, seed))):
        if (other := taken.get(conversation.id)) is not None:
            yield _answered_as(conversation, other)


def _exchanged(conversations: Sequence[Conversation], seed: int) -> Iterator[Conversation]:
    ordered = sorted(conversations, key=lambda conversation: (len(_answers(conversation)), _place(conversation.id, seed)))
    for _, group in groupby(ordered, key=lambda conversation: len(_answers(conversation))):
        alike = list(group)
        if len(alike) == 1:
            continue
        for one, other in zip(alike, [*alike[1:], alike[0]], strict=True):
            yield _answered_as(one, other)


def _answered_as(one: Conversation, other: Conversation) -> Conversation:
    answers = iter(_answers(other))
    messages = [next(answers) if message["role"] == "assistant" else message for message in one.messages]
    return Conversation(one.id, messages, one.tools)


def _answers(conversation: Conversation) -> list[dict[str, Any]]:
    return [message for message in conversation.messages if message["role"] == "assistant"]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def _place(identity: str, seed: int) -> bytes:
    key = seed.to_bytes(16, "little")
    return blake2b(identity.encode(errors="surrogateescape"), digest_size=16, key=key, person=b"conversation").digest()


def training_file(kind: Responses) -> str:
    """Where conversations to train on are kept: the task's, or those that a selection made."""
    return f"{kind}.jsonl.gz" if kind in SELECTED else TRAINING_FILE


def read_conversations(path: Path) -> Iterator[Conversation]:
    """The conversations of one file, in its order."""
    return (Conversation(**row) for row in read_rows(path))
