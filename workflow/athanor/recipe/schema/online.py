"""Online RL: the problems that are asked, what an answer is worth, and what is learnt from it."""

from dataclasses import dataclass

from athanor.recipe.schema.choices import Backend, Comparison, Grain, OnlineControl, OnlineStart, PolicyLoss, RewardEngine, Route
from athanor.recipe.schema.external import External
from athanor.recipe.schema.keys import key
from athanor.recipe.schema.post_training import PassRateFilter
from athanor.recipe.schema.training import Training, Zero
from athanor.recipe.units import Unit


@dataclass
class Molecules:
    """Where a record of a source has a molecule: templates of its fields, as `data.sources` has them."""

    smiles: str = key("{smiles}", "its SMILES")
    name: str = key("", "its IUPAC name; empty: records have none, and no problem asks for one")


@dataclass
class Problems:
    """Verifiable problems of the task registry (docs/tasks.md): audited, made once and written down.

    A generator that the audit quarantines is left out with its evidence; one whose verifier runs what a model wrote, where the
    machine has no sandbox, as well.
    """

    generators: list[str] = key(
        [], "by name (athanor task audit lists them), or FILE.py:Class; all: every one that is known; empty: no problems"
    )
    corpus: dict[str, Molecules] = key({}, "sources of molecules that generators ask about (docs/tasks.md)")
    most_tasks: int = key(30, "tasks of one generator, at most", low=1, high=30)
    hardest: float = key(1.0, "difficulty up to which tasks are taken, as declared: 0 all at their first level", low=0, high=1)
    per_task: int = key(24, "problems of each task, those that are held out among them", low=2, high=100_000)
    held_out: float = key(0.125, "share of a task's problems that are never learnt from; at least one", above=0, high=0.5)


@dataclass
class Objective:
    """What is made of an answer's advantage; every formula is in docs/online-rl.md."""

    kind: PolicyLoss = key(PolicyLoss.CLIPPED, "clipped | oreal")
    ratio: Grain = key(Grain.TOKEN, "token | sequence: what a probability ratio, and its clipping, is of")
    mean: Grain = key(Grain.TOKEN, "token | sequence: whether each token counts alike, or each answer")
    clip_low: float = key(0.2, "clipped: how far below 1 a ratio counts", above=0, high=1)
    clip_high: float = key(0.2, "clipped: how far above 1 a ratio counts", above=0, high=10)
    truncate: float = key(
        2.0, "what the ratio of the trainer's to the rollout engine's probability of a token counts at most", low=1, high=100
    )
    reference_kl: float = key(0.0, "what the divergence from the start counts, nats a token; 0 needs no second model", low=0)
    kl_cov: float = key(
        0.0, "what the divergence from the round's first weights counts, of the tokens that kl_cov_share says", low=0
    )
    kl_cov_share: float = key(
        2e-3, "share of a step's tokens, those whose log-probability and advantage vary together most", above=0, high=1
    )
    negatives: float = key(0.5, "oreal: what wrong answers count beside right ones", low=0, high=10)


@dataclass
class Judging:
    """A model that grades answers from 0 to 10, at the site's judge_url (OpenAI's chat completions)."""

    model: str = key("", "as the endpoint calls it")
    rubric: str = key("Is it correct, complete and to the point?", "what makes an answer good, as the judge is told")
    max_new_tokens: int = key(1024, "tokens of a verdict, at most, with what is thought before it", unit=Unit.TOKENS, above=0)


@dataclass
class Online(Training):
    """Online RL: answers are drawn from the weights as they are, rewarded, compared within their prompt's group, and learnt from.

    `mixture` weighs tasks of `sft.tasks` and `problems`, which stands for those of the registry; without it there is no online
    RL. An answer is a sample and counts `sequence_length` tokens in every budget: a round of `prompts` x `samples` answers is
    learnt from in steps of batch_tokens / sequence_length of them.
    """

    start: OnlineStart = key(OnlineStart.LAST, "last (of those the recipe has) | sft | offline | preference")
    problems: Problems = key(Problems(), "what `problems` in the mixture stands for")
    routes: dict[str, Route] = key(
        {}, "who rewards answers to a task of the mixture: verifier (unless said otherwise) | reward_model | judge | rules"
    )
    prompts: int = key(64, "prompts of a round; 0: no online RL", low=0)
    samples: int = key(8, "answers a prompt: its group", low=2)
    pool: int = key(1000, "prompts of each task of the mixture, at most; 0 for all", low=0)
    max_new_tokens: int = key(64, "tokens an answer, at most", unit=Unit.TOKENS, above=0)
    tokens_a_round: int = key(
        0,
        "tokens that an answer gets in one round: one that has not ended goes on in the next; 0: a round waits for its longest",
        unit=Unit.TOKENS,
        low=0,
    )
    probes: int = key(8, "answers a prompt by which the start's pass rate is measured; 0: nothing is filtered by it", low=0)
    filter: PassRateFilter = key(PassRateFilter(), "prompts that are neither too easy nor too hard for the start")
    ngram: int = key(
        13, "words in a row that a prompt may not share with a question of evaluate.suites, or all of it; 0: not compared", low=0
    )
    curriculum: float = key(
        0.0,
        "share of the budget over which ever harder prompts come in, the easiest of each task first; 0: all at once",
        low=0,
        high=1,
    )
    comparison: Comparison = key(Comparison.GROUP_Z, "group_z | ema | raw: how rewards become advantages")
    ema: float = key(0.99, "ema: decay of a task's moments, a round", above=0, high=0.9999)
    shares: dict[str, float] = key({}, "weights of routes in the sum of |advantages|; empty: as they come")
    forbidden: list[str] = key([], "regular expressions of what no answer may hold: its reward is 0 then")
    rule_weights: dict[str, float] = key(
        {"fluency": 1.0, "safety": 1.0}, "route rules: what each counts: fluency | safety | brevity | script"
    )
    reward_engine: RewardEngine = key(
        RewardEngine.IN_PROCESS,
        "in_process | server: the reward model is in each rank's process, or one a node",
    )
    judge: Judging = key(Judging(), "route judge: who grades, and by what")
    objective: Objective = key(Objective(), "what is learnt from an advantage")
    staleness: int = key(
        0, "rounds that the weights which answer may be behind: 1 answers while the last round is learnt", low=0, high=1
    )
    drop_norms: float = key(
        0.0,
        "share of steps that are left out for the largest gradient norms, by the quantile of this run's own; 0: none",
        low=0,
        high=0.5,
    )
    freeze_router: bool = key(True, "the experts' routers stay as they are")
    backend: Backend = key(
        Backend.DEEPSPEED,
        "deepspeed (the exported model, spread by zero) | megatron (the checkpoint that it was exported from, in any layout "
        "without context ranks)",
    )
    zero: Zero = key(Zero(), "deepspeed: what the data ranks keep a part of each")
    average: int = key(
        0, "ends of the last so many rounds whose mean weights are exported and asked beside the model; 0: none", low=0
    )
    controls: list[OnlineControl] = key([], "controls that are trained beside: random | shuffled")
    external: External = key(External(), "another trainer instead of Athanor's own")
    watched: int = key(16, "held-out prompts whose likeliest answers are kept through training", low=0)
    watch_every_rounds: int = key(10, "rounds between two of these looks (logging, not identity)", low=1)
