"""Training that another trainer does: its command with a handover, watched, stopped and started again like any stage.

Below the artifact's folder, `external/003/` has what the third attempt was told and told itself, and `external/checkpoints` is
the trainer's own until the model is there.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from athanor.artifacts.files import secure_tree, write_atomically
from athanor.artifacts.run import Input, StageError, StageRun, Stopped
from athanor.external.contract import (
    CONTRACT,
    METRICS_FILE,
    SAVED,
    Asked,
    Budget,
    ContractError,
    Corpus,
    Follower,
    Given,
    Handover,
    Stop,
    Told,
    finite,
    join_told,
)
from athanor.external.result import ResultError, require_weights_like
from athanor.models.folder_files import MODEL_FOLDER, OPTIONAL_TOKENIZER_FILES, TOKENIZER_FILES
from athanor.recipe.command_template import problem_with_template
from athanor.recipe.external import HANDOVER, file_digests
from athanor.recipe.loading import project_folder
from athanor.recipe.schema.external import External
from athanor.rl.child import Child

EXTERNAL = "external"
POLL_SECONDS = 0.2
VERSION_SECONDS = 120.0  # an import of torch and more, on a slow file server
TAIL_BYTES, TAIL_LINES = 8192, 30  # of a trainer's log in an error
GRACE_SECONDS = 60.0  # between the two signals of a stop, where no executor says
OWN_SHARE = 0.9  # of that, for the trainer; the rest is for the stage to end in


class TrainerError(StageError):
    """The other trainer failed; its words, which the executor's policy reads, say whether another start helps."""

    kind = "trainer failed"


@dataclass(frozen=True)
class Place:
    """What of an artifact's folder an attempt uses."""

    folder: Path
    attempt: int

    @property
    def checkpoints(self) -> Path:
        """The trainer's own."""
        return self.folder / EXTERNAL / "checkpoints"

    @property
    def here(self) -> Path:
        """This attempt's."""
        return self.folder / EXTERNAL / f"{self.attempt:03d}"

    @property
    def handover(self) -> Path:
        """There once everything else is."""
        return self.here / "handover.json"

    @property
    def output(self) -> Path:
        """What becomes the artifact's model."""
        return self.here / "output"

    @property
    def model(self) -> Path:
        """There once it is whole, and was found right."""
        return self.folder / MODEL_FOLDER

    def ended(self, rank: int) -> Path:
        """There once the trainer of this rank, not the first, has ended well in this attempt."""
        return self.here / f"rank-{rank}.ended"

    def attempts(self) -> list[Path]:
        """The folders of all attempts so far, in their order."""
        return sorted((self.folder / EXTERNAL).glob("[0-9]*"))


@dataclass(frozen=True)
class Deal:
    """What another trainer is to make."""

    section: str  # of the recipe, for errors
    external: External
    start: Input  # the artifact whose `model/` the result must be like
    inputs: Mapping[str, Given]
    budget: Budget
    asked: Asked | None = None
    corpus: Corpus | None = None

    @property
    def before(self) -> Told | None:
        """How far the start is, behind which lines must not go back."""
        return Told(self.corpus.step, self.corpus.tokens, {}) if self.corpus else None


@dataclass(frozen=True)
class Made:
    """How a model came to be that is there: the lines of all attempts, and what the manifest says of who made it."""

    lines: Sequence[Told]
    trainer: Mapping[str, str]

    @property
    def last(self) -> Told:
        """How far it has come."""
        return self.lines[-1]

    def values(self) -> dict[str, float]:
        """What was told last of everything that was measured."""
        return finite({name: value for line in self.lines for name, value in line.values.items()})


def hand_over(stage: StageRun, deal: Deal) -> None:
    """Have the deal's trainer train; leaves `model/` and `metrics.jsonl`, and computes nothing where they are there.

    What is left is looked at once all ranks' trainers have ended well: one may still write.

    Raises Stopped where the trainer was stopped or asks to be started again, TrainerError where it fails, and StageError where
    what it tells or leaves is not what the contract says.
    """
    place = Place(stage.folder, stage.attempt)
    if place.model.is_dir():
        return
    words = _words(deal, place)
    if stage.rank == 0:
        _begin(stage, deal, place)
    else:
        await_others(stage, lambda: place.handover.is_file() or place.model.is_dir())
        if place.model.is_dir():
            return
    told = _train(stage, deal, place, words)
    if stage.rank != 0:
        write_atomically(place.ended(stage.rank), "")
        return
    await_others(stage, lambda: all(place.ended(rank).is_file() for rank in range(1, stage.world_size)))
    _take(stage, deal, place, told)


def await_others(stage: StageRun, done: Callable[[], bool]) -> None:
    """Wait for what other ranks leave, as those of another trainer's have no process group here. Raises Stopped."""
    while not done():
        end_if_asked(stage, "while ranks waited for each other")
        time.sleep(POLL_SECONDS)


def made(stage: StageRun, deal: Deal) -> Made:
    """Of the model that is there; the trainer's own checkpoints have had their day. Called by rank 0."""
    place = Place(stage.folder, stage.attempt)
    shutil.rmtree(place.checkpoints, ignore_errors=True)
    versions = [path.read_text().strip() for attempt in place.attempts() if (path := attempt / "version.txt").is_file()]
    trainer = {"command": deal.external.command, "version": versions[-1], **file_digests(deal.external, project_folder())}
    return Made(list(Follower(stage.folder / METRICS_FILE).new()), trainer)


def _words(deal: Deal, place: Place) -> list[str]:
    command = deal.external.command
    if problem := problem_with_template(command, (HANDOVER,), {HANDOVER}):
        raise StageError(f"{deal.section}.external.command {command!r} {problem}")
    return [word.format(handover=place.handover) for word in shlex.split(command)]


def end_if_asked(stage: StageRun, at: str) -> None:
    """Raise Stopped where a stop was asked for."""
    if stage.stop_requested:
        raise Stopped(f"{stage.stage}/{stage.instance}, {at}")


def _begin(stage: StageRun, deal: Deal, place: Place) -> None:
    """Lay out what the trainer finds; the handover comes last."""
    end_if_asked(stage, "before its trainer began")
    for before in place.attempts():
        shutil.rmtree(before / place.output.name, ignore_errors=True)
    place.checkpoints.mkdir(parents=True, exist_ok=True)
    place.output.mkdir(parents=True)
    version = _version(deal)
    write_atomically(place.here / "version.txt", version + "\n")
    external = deal.external
    stage.spool.params({"trainer": {"command": external.command, "version": version, "files": ", ".join(external.files)}})
    _handover(stage, deal, place).write(place.handover)
    print(f"{external.command.split()[0]} ({version or 'no version told'}) trains; its log is {_log(stage, place)}", flush=True)


def _version(deal: Deal) -> str:
    """The first line that the trainer's command of its version prints."""
    command = deal.external.version
    if not command:
        return ""
    try:
        said = subprocess.run(
            shlex.split(command),
            cwd=project_folder(),
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=VERSION_SECONDS,
            check=True,
        )
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise StageError(f"{deal.section}.external.version {command!r} tells no version: {error}") from error
    return next(iter(said.stdout.splitlines()), "").strip()


def _environment() -> dict[str, str]:
    """As the stage's own, whose interpreter is the first `python`."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**os.environ, "PATH": path, "ATHANOR_PROJECT": str(project_folder())}


def _handover(stage: StageRun, deal: Deal, place: Place) -> Handover:
    start = Given(str((deal.start.folder / MODEL_FOLDER).absolute()), deal.start.fingerprint)
    return Handover(
        contract=CONTRACT,
        stage=f"{stage.stage}/{stage.instance}",
        fingerprint=stage.fingerprint,
        attempt=stage.attempt,
        inputs={"start": start, **deal.inputs},
        seed=stage.recipe.seed,
        budget=deal.budget,
        settings=dict(deal.external.settings),
        checkpoints=str(place.checkpoints.absolute()),
        roll_back=stage.roll_back,
        output=str(place.output.absolute()),
        metrics=str((place.here / METRICS_FILE).absolute()),
        stop=Stop(signal.SIGTERM.name, _grace_seconds(), SAVED),
        asked=deal.asked,
        corpus=deal.corpus,
    )


def _grace_seconds() -> float:
    return OWN_SHARE * float(os.environ.get("SUBMITIT_GRACE_SECONDS") or GRACE_SECONDS)


def _log(stage: StageRun, place: Place) -> Path:
    return place.here / f"rank-{stage.rank}.log"


def _train(stage: StageRun, deal: Deal, place: Place, words: list[str]) -> Told | None:
    """Run the trainer of this rank to its end. What it told last, which is of rank 0 alone."""
    budget = deal.budget.tokens
    follower, asked = Follower(place.here / METRICS_FILE, deal.before), 0.0
    try:  # without parents a killed stage would leave it training beside the next attempt
        child = Child(words, _log(stage, place), signal.SIGKILL, project_folder(), _environment())
    except OSError as error:
        raise StageError(f"{deal.section}.external.command cannot be started: {error}") from error
    try:
        running = True
        while running:
            running = not child.wait(POLL_SECONDS)
            _follow(stage, follower, budget)
            if running and stage.stop_requested and not asked:
                asked = time.monotonic()
                child.tell(signal.SIGTERM)
            elif running and asked and time.monotonic() - asked > _grace_seconds():
                print("the trainer did not end in time: killed", flush=True)
                child.kill()
    finally:
        child.kill()
    told, code = follower.last, child.returncode
    done = code == 0 and (stage.rank != 0 or (told is not None and told.tokens >= budget))
    at = f"at {told.tokens if told else 0} tokens" if stage.rank == 0 else f"on rank {stage.rank}"
    if code == SAVED or (asked and not done):
        raise Stopped(f"{stage.stage}/{stage.instance} {at}, its trainer ended with {code}")
    if code != 0:
        said = child.last_words(TAIL_BYTES, TAIL_LINES)
        raise TrainerError(f"{words[0]} ended with {code} {at}; the end of {child.log}:\n{said}")
    return told


def _follow(stage: StageRun, follower: Follower, budget: int) -> None:
    """Pass on what the trainer tells: no line, no mark of progress, so that one that hangs is found as any stage is."""
    if stage.rank != 0:
        return
    try:
        for told in follower.new():
            stage.spool.metrics(told.step, {"tokens": told.tokens, **told.values})
            stage.progress(min(told.tokens, budget), budget, "tokens")
    except ContractError as error:
        raise StageError(f"the trainer tells what cannot be read: {error}") from error


def _take(stage: StageRun, deal: Deal, place: Place, told: Told | None) -> None:
    """Look at what was left, and make it the artifact's model, which is the last thing that happens."""
    budget, start = deal.budget.tokens, deal.start.folder / MODEL_FOLDER

    def mark() -> None:
        stage.progress(budget, 0, "tokens")

    if told is None or told.tokens < budget:
        at = f"{told.tokens} of {budget} tokens" if told else f"no line in {place.here / METRICS_FILE}"
        raise StageError(
            f"the trainer ended with 0 and told of {at}; it is done when it has told of the whole budget, and exits with {SAVED} "
            "to be started again"
        )
    try:
        require_weights_like(start, place.output, mark)
    except ResultError as error:
        raise StageError(str(error)) from error
    for name in (*TOKENIZER_FILES, *OPTIONAL_TOKENIZER_FILES):
        if (start / name).is_file() and not (place.output / name).exists():
            shutil.copyfile(start / name, place.output / name)
    lines = join_told(attempt / METRICS_FILE for attempt in place.attempts())
    write_atomically(stage.folder / METRICS_FILE, "".join(line.line() for line in lines))
    secure_tree(place.output)  # a model that is there is a whole one, also after a power cut
    os.replace(place.output, place.model)
