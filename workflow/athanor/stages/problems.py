"""Audit generators of the task registry, make problems of the sound ones once, and write them down as conversations."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from athanor.artifacts.run import Outcome, StageError, StageRun, Stopped
from athanor.data.conversations import HELD_OUT_FILE, TRAINING_FILE, Conversation
from athanor.data.documents import JsonlWriter
from athanor.recipe.loading import project_folder
from athanor.recipe.schema.choices import MoleculeTask
from athanor.recipe.schema.online import Problems
from athanor.recipe.sections import ALL
from athanor.rewards.sandbox.isolation import Isolation, find_isolation
from athanor.rl.tasks.account import AUDIT_FILE, AUDIT_PAGE, Account, TaskAccount, write_accounts
from athanor.rl.tasks.audit import known_generators
from athanor.rl.tasks.generator import Generator, asks_about, find_generator, is_file_and_class
from athanor.rl.tasks.problems import LEAST, Made, Problem, distinct, entry_of, hold_out_everywhere, mixed
from athanor.rl.tasks.registry import Order, Tried, try_generators
from athanor.stages.corpus_molecules import MOLECULES_FILE, write_corpus


@dataclass
class _Taken:
    """Problems of all generators, and what became of each generator."""

    learnt: list[Problem] = field(default_factory=list)
    held_out: list[Problem] = field(default_factory=list)
    accounts: list[Account] = field(default_factory=list)

    def counters(self, isolation: Isolation) -> dict[str, int]:
        """For the manifest. `generators` are those that were tried, `missing` the problems that their tasks have too few."""
        tasks = [task for account in self.accounts for task in account.taken]
        return {
            "generators": sum(account.audit is not None for account in self.accounts),
            "sound": sum(bool(account.taken) for account in self.accounts),
            "quarantined": sum(bool(account.quarantine) for account in self.accounts),
            "left_out": sum(bool(account.left_out) and not account.quarantine for account in self.accounts),
            "tasks": len(tasks),
            "problems": len(self.learnt),
            "held_out": len(self.held_out),
            "missing": sum(task.missing for task in tasks),
            "walls": int(isolation.complete),
        }


def run(stage: StageRun) -> Outcome:
    """`train.jsonl.gz`, `held_out.jsonl.gz`, `audit.json` and `audit.html`; instance registry."""
    settings, isolation = stage.recipe.online.problems, find_isolation()
    corpus = stage.folder / MOLECULES_FILE if settings.corpus else None
    generators = _named(settings.generators, corpus)
    gathered = write_corpus(stage, corpus) if corpus else {}
    untried = {} if isolation.complete else {g.name: g.needs_walls for g in generators if g.needs_walls}
    tried = _try(stage, [generator for generator in generators if generator.name not in untried], isolation)
    taken = _take(tried, settings)
    taken.accounts += [Account(name, f"no sandbox with walls here: {why}") for name, why in untried.items()]
    counters = taken.counters(isolation) | gathered
    write_accounts(stage.folder, f"{stage.recipe.name}: generators of problems", counters, taken.accounts, isolation.why)
    if not taken.learnt:
        reasons = "; ".join(f"{account.generator}: {account.left_out}" for account in taken.accounts)
        raise StageError(f"online.problems: nothing is left to learn from: {reasons}; name other generators")
    for name, problems in ((TRAINING_FILE, taken.learnt), (HELD_OUT_FILE, taken.held_out)):
        with JsonlWriter(stage.folder / name) as writer:
            for problem in mixed(problems):
                writer.write(_conversation(problem).row())
    _tell(counters, untried, isolation)
    stage.spool.artifact(stage.folder / AUDIT_PAGE, AUDIT_PAGE)
    source = ", ".join(settings.generators)
    stage.spool.dataset(stage.instance, stage.fingerprint, source, "online", counters)
    files = (TRAINING_FILE, HELD_OUT_FILE, AUDIT_FILE, AUDIT_PAGE)
    return Outcome((*files, MOLECULES_FILE) if corpus else files, counters)


def _named(names: Sequence[str], corpus: Path | None) -> list[Generator]:
    """Every generator that the recipe names, each once. Raises StageError with all names that are none."""
    molecules = {str(name): asks_about(name, corpus) for name in MoleculeTask} if corpus else {}
    folder, known = project_folder(), (*known_generators(), *molecules)
    if wrong := [name for name in names if name not in (*known, ALL) and not is_file_and_class(name, folder)]:
        raise StageError(
            f"online.problems.generators: no such generator: {', '.join(wrong)}; athanor task audit names those there are, and "
            f"one's own is FILE.py:Class below {folder}"
        )
    each = dict.fromkeys(one for name in names for one in (known if name == ALL else (name,)))
    return [molecules.get(name) or find_generator(name, folder) for name in each]


def _try(stage: StageRun, generators: Sequence[Generator], isolation: Isolation) -> list[Tried]:
    settings = stage.recipe.online.problems
    order = Order(stage.recipe.seed, settings.most_tasks, settings.hardest, settings.per_task, isolation.complete)

    def progress(done: int, total: int) -> None:
        stage.progress(done, total, "generators")
        if stage.stop_requested and done < total:
            raise Stopped(f"problems of {stage.instance} after {done} of {total} generators; finished ones are kept")

    return try_generators(generators, order, stage.folder / "generators", progress)


def _take(tried: Sequence[Tried], settings: Problems) -> _Taken:
    """What each task has to learn from and what is held out of it; a question that two generators ask is the first one's."""
    taken, asked = _Taken(), set[str]()
    made = [list(distinct(one.made, asked)) for one in tried]
    enough = [[task.problems if len(task.problems) >= LEAST else [] for task in tasks] for tasks in made]
    held_out = iter(hold_out_everywhere([problems for tasks in enough for problems in tasks], settings.held_out))
    for one, tasks, problems_of in zip(tried, made, enough, strict=True):
        difficulty = {task.name: task.difficulty for task in one.audit.tasks}
        account = Account(one.audit.generator, audit=one.audit)
        for task, problems in zip(tasks, problems_of, strict=True):
            aside = next(held_out)
            learnt = [problem for problem in problems if problem.id not in aside]
            taken.learnt += learnt
            taken.held_out += [problem for problem in problems if problem.id in aside] if learnt else []
            account.tasks.append(_account(task, difficulty[task.task], len(problems), len(aside), settings.per_task))
        taken.accounts.append(account)
    return taken


def _account(made: Made, difficulty: float, problems: int, aside: int, wanted: int) -> TaskAccount:
    facts = (made.asked_before, made.wrong, made.unmade, made.trouble)
    return TaskAccount(made.task, difficulty, problems - aside, aside, wanted - problems, *facts)


def _conversation(problem: Problem) -> Conversation:
    messages = [{"role": "user", "content": problem.question}, {"role": "assistant", "content": problem.answer}]
    return Conversation(problem.id, messages, entry=entry_of(problem))


def _tell(counters: dict[str, int], untried: dict[str, str], isolation: Isolation) -> None:
    left_out = f"; no sandbox with walls ({isolation.why}), without {', '.join(untried)}" if untried else ""
    print(
        f"{counters['problems']} problems to learn from and {counters['held_out']} held out, of {counters['tasks']} tasks of "
        f"{counters['sound']} generators, of {counters['generators']} tried{left_out}",
        flush=True,
    )
