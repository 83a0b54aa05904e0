"""What a roster of policies writes behind shared prefixes, policy by policy, in shards that a killed stage goes on from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from athanor.rewards.polar.prefixes import Continued, Prefix
from athanor.rewards.polar.roster import Policy, draw
from athanor.rewards.polar.triples import SAMPLES, Said, Text
from athanor.rl.rollouts.sampling import Engine, Finish, Prompt, Sampling
from athanor.rl.rollouts.shards import Order, read_samples, roll_out

Shards = Mapping[str, Sequence[Path]]  # by the policy's name


@dataclass(frozen=True)
class Speech:
    """How policies write, but for their temperature: POLAR's top-p and top-k, at most 4,096 tokens there."""

    max_new_tokens: int
    seed: int
    top_p: float = 0.9
    top_k: int = 50

    def sampling(self, policy: Policy) -> Sampling:
        """Every policy draws its own numbers: with shared ones, texts of two policies would be more alike than two of one."""
        seed = draw("speech", policy.name, self.seed) % 2**63
        return Sampling(SAMPLES, policy.temperature, self.top_p, self.top_k, self.max_new_tokens, seed)


@dataclass(frozen=True)
class Speaker:
    """The weights of a model: who made them, how to answer with them, and what they were tuned to have before a text."""

    fingerprint: str
    engine: Callable[[], Engine]
    first: tuple[int, ...] = ()


def write_trajectories(
    continued: Sequence[Continued],
    speakers: Mapping[str, Speaker],
    speech: Speech,
    folder: Path,
    on_shard: Callable[[int, int], None],
) -> Shards:
    """Two texts of each of a prefix's policies whose model is among `speakers`, below `folder`/POLICY.

    Policies of other models write elsewhere: a job may be one model's.
    `on_shard` is told (prefixes continued, in all), each counted once a policy. Raises StageError where a shard is of other
    weights or settings.
    """
    work: dict[Policy, list[Prompt]] = {}
    for item in continued:
        for policy in (policy for policy in item.policies if policy.model in speakers):
            tokens = (*speakers[policy.model].first, *item.prefix.tokens)
            work.setdefault(policy, []).append(Prompt(item.prefix.id, tokens))
    total, before, shards = sum(map(len, work.values())), 0, dict[str, Sequence[Path]]()
    for policy in sorted(work, key=lambda policy: policy.name):
        speaker, prompts = speakers[policy.model], work[policy]

        def progress(done: int, _of: int, begin: int = before) -> None:
            on_shard(begin + done, total)

        order = Order(speaker.fingerprint, speech.sampling(policy))
        shards[policy.name] = roll_out(prompts, order, speaker.engine, folder / policy.name, progress)
        before += len(prompts)
    return shards


def read_texts(shards: Shards) -> Said:
    """What each policy said behind each prefix."""
    said: dict[tuple[str, str], list[Text]] = {}
    for name, paths in shards.items():
        for sample in read_samples(paths):
            text = Text(sample.tokens, sample.finish is Finish.STOP, sample.finish is Finish.LOOP)
            said.setdefault((name, sample.prompt), []).append(text)

    def texts(policy: Policy, prefix: Prefix) -> Sequence[Text]:
        return said.get((policy.name, prefix.id), [])

    return texts
