"""The sections behind pretraining: conversations, fine-tuning, offline RL and the reward model."""

from dataclasses import dataclass

from athanor.recipe.schema.choices import Backend, Difficulty, Extract, PreferenceKind, RolloutEngine
from athanor.recipe.schema.keys import key
from athanor.recipe.schema.training import Peft, Training, Zero
from athanor.recipe.units import Unit


@dataclass
class Turn:
    """A question and its answer, made from the fields of a record."""

    prompts: list[str] = key([], "ways to ask, each a template; a record is asked in one of them", required=True)
    thinking: str = key("", "template of what is thought before the answer; empty: nothing")
    response: str = key("", "template of the answer", required=True)


@dataclass
class SftTask:
    """Conversations made from one source. What pretraining held out of it is held out here."""

    source: str = key("", "name in data.sources", required=True)
    extract: Extract = key(Extract.RECORDS, "records | functions (of Python files)")
    system: str = key("", "system message; empty: none")
    turns: list[Turn] = key([], "the conversation, from the fields of a record")
    messages: str = key("", "instead of turns: the field that holds whole conversations, as chat templates take them")
    tools: str = key("", "the field with the tools that such conversations may call")
    taxonomy: list[str] = key([], "three levels under which the task is counted: field, subject, skill", required=True)
    max_conversations: int = key(0, "taken in all, the held-out ones among them; 0 for all", low=0)


@dataclass
class Answers:
    """Answers to held-out questions: of the model before fine-tuning, behind it, and of its control."""

    prompts: int = key(64, "held-out questions a task, at most; 0 asks none", low=0)
    samples: int = key(4, "answers that are drawn a question, beside the likeliest one", low=1)
    max_new_tokens: int = key(64, "tokens an answer, at most", unit=Unit.TOKENS, above=0)


@dataclass
class MixtureSearch:
    """Short fine-tunings, one a mixture, by which a mixture is decided: each task alone, then combinations.

    They start where fine-tuning starts, on Slurm as one job array; the report has the table to decide by.
    """

    token_budget: int = key(0, "tokens each; 0: nothing is tried", unit=Unit.TOKENS, low=0)
    alone: list[str] = key([], "tasks to train on alone; empty: every one of sft.mixture")
    combinations: dict[str, dict[str, float]] = key({}, "mixtures by name, weights of tasks; the recipe's own is tried anyway")


@dataclass
class Labels:
    """How difficult training questions are, by how often a model answers them right, and what fine-tuning learns of each level.

    The model is one of `sft.search`. A question that was not asked is learnt once, and what is held out is never touched. Without
    `drop` and `repeats` nothing is learnt otherwise than without labels.
    """

    by: str = key("", "the mixture of sft.search whose model is asked; empty: nothing is labelled")
    tasks: list[str] = key([], "tasks that are labelled; empty: those of sft.mixture whose generator judges answers")
    questions: int = key(1000, "training questions a task that are asked, at most; 0 for all", low=0)
    samples: int = key(8, "answers a question", low=2)
    temperature: float = key(1.0, "of the answers: a model of few steps says anything at 1", above=0, high=10)
    max_new_tokens: int = key(64, "tokens an answer, at most", unit=Unit.TOKENS, above=0)
    easy_from: float = key(0.75, "pass rate from which on a question is easy", above=0, high=1)
    hard_up_to: float = key(0.25, "pass rate up to which it is hard; unsolved is what was never answered right", above=0, high=1)
    drop: list[Difficulty] = key([], "levels that are not learnt: unsolved | hard | medium | easy")
    floor: float = key(
        0.25,
        "share of a task's labelled questions that is learnt in any case, those nearest to a pass rate of 1/2 first",
        low=0,
        high=1,
    )
    repeats: dict[str, int] = key({}, "how often a question of a level is learnt, each time in the next of its task's prompts")

    @property
    def curates(self) -> bool:
        """Whether anything is learnt otherwise than without labels."""
        return bool(self.by and (self.drop or self.repeats))


@dataclass
class Sft(Training):
    """Supervised fine-tuning on conversations, packed without reaching into each other; the loss counts responses alone.

    Tokens are those of the packed windows. Its control trains on the same prompts with another prompt's response.
    """

    backend: Backend = key(
        Backend.MEGATRON,
        "megatron | deepspeed (dense models in their Hugging Face form, docs/deepspeed.md); offline RL goes by it, too",
    )
    zero: Zero = key(Zero(), "what the data ranks of backend deepspeed keep a part of each")
    peft: Peft = key(Peft(), "few weights instead of all, for backend deepspeed")
    tasks: dict[str, SftTask] = key({}, "the tasks by name; without any there is no fine-tuning")
    shuffled_control: bool = key(False, "also train the negative control: the same model on shuffled responses")
    answers: Answers = key(Answers(), "held-out questions that are asked")
    search: MixtureSearch = key(MixtureSearch(), "mixtures that are tried")
    labels: Labels = key(Labels(), "how difficult training questions are")


@dataclass
class PassRateFilter:
    """Which questions are learnt from, by how often models answer them right; applied task by task."""

    drop_from: float = key(1.0, "pass rate from which on a question is too easy", above=0, high=1)
    drop_up_to: float = key(0.25, "pass rate up to which it is too hard", low=0, high=1)
    floor: float = key(
        0.25, "share of a task's rightly answered questions that are kept in any case, the least hard first", low=0, high=1
    )


@dataclass
class ScoreWeights:
    """What the components of an answer's score count; each lies between 0 and 1."""

    accuracy: float = key(1.0, "a verifier calls it right", low=0)
    fluency: float = key(0.1, "it ended by itself and does not repeat itself", low=0)
    safety: float = key(1.0, "it holds nothing forbidden", low=0)
    reward: float = key(0.0, "a reward model prefers it to the answer on record; above 0 there must be one", low=0)


@dataclass
class Offline(Training):
    """Offline RL: further fine-tuning on the best of N answers that the model itself gave.

    Without a mixture (weights of `sft.tasks`, not only those that `sft.mixture` has) there is none. Its controls learn as many
    tokens of any of the answers to the same questions, and of the conversations that fine-tuning had.
    """

    prompts: int = key(1000, "training questions a task that are asked; 0: no offline RL", low=0)
    samples: int = key(8, "answers a question", low=2)
    temperature: float = key(1.0, "of the answers", above=0, high=10)
    top_p: float = key(1.0, "share of the likeliest tokens that may be drawn", above=0, high=1)
    top_k: int = key(0, "number of the likeliest tokens that may be drawn, 0 for all", low=0)
    max_new_tokens: int = key(64, "tokens an answer, at most", unit=Unit.TOKENS, above=0)
    second_model: bool = key(
        False, "fine-tune one more model, on samples in another order, whose pass rates count as the first one's do"
    )
    filter: PassRateFilter = key(PassRateFilter(), "questions that are neither too easy nor too hard")
    weights: ScoreWeights = key(ScoreWeights(), "what makes an answer the best")
    forbidden: list[str] = key([], "regular expressions of what no answer may hold: safety is 0 then")
    controls: bool = key(False, "also train both controls")
    zero: Zero = key(Zero(), "what the data ranks of backend deepspeed (sft.backend) keep a part of each")
    peft: Peft = key(Peft(), "few weights instead of all, for backend deepspeed, beside those that fine-tuning left merged")
    milestone_tokens: list[int] = key([], "earlier points whose weights are kept, in tokens", unit=Unit.TOKENS, above=0)
    average: int = key(
        0, "last so many points, the end among them, whose mean weights are asked what was held out; 0: none", low=0
    )


@dataclass
class Preference(Training):
    """Preference learning behind offline RL: from right and wrong answers of the fine-tuned model to one question, through trl.

    The start is the reference model. A sample is a pair (kto: an answer) and stands for `sequence_length` tokens in every budget;
    all pairs of the tasks of `offline.mixture` are learnt from. The control prefers the wrong answer in half of the pairs.
    """

    kind: PreferenceKind = key(PreferenceKind.NONE, "none | dpo | kto")
    beta: float = key(0.1, "how much the reference holds: larger, and the model stays closer to it", above=0, high=100)
    nll_weight: float = key(
        0.0,
        "dpo: what a right answer's own loss counts beside, nats per token of it (Pang et al. 2024); at 0 right answers may "
        "become unlikely, too, as long as wrong ones become so faster",
        low=0,
        high=100,
    )
    measured: float = key(
        0.125, "share of each task's pairs that is not learnt from, but measured; at least one", above=0, high=0.5
    )
    zero: Zero = key(Zero(), "what the data ranks keep a part of each")
    control: bool = key(False, "also train the negative control")


@dataclass
class Rollouts:
    """How models are asked, in every stage that asks."""

    engine: RolloutEngine = key(RolloutEngine.IN_PROCESS, "in_process | server (the site's server_command); each draws others")


@dataclass
class RewardTraining(Training):
    """A training of the reward model on pairs of sequences, in its Hugging Face form through DeepSpeed.

    In every budget a pair counts `sequence_length` tokens, so that a step takes batch_tokens / sequence_length pairs.
    """

    token_budget: int = key(0, "tokens trained in all; 0: nothing is trained", unit=Unit.TOKENS, low=0)
    sequence_length: int = key(
        128,
        "tokens of a sequence (prompt, one answer, prompt, another), at most; prompts that do not fit lose their beginnings",
        unit=Unit.TOKENS,
        low=8,
    )
    batch_tokens: int = key(0, "tokens a step; 0: what POLAR's law says of model and budget", unit=Unit.TOKENS, low=0)
    lr: float = key(0.0, "peak learning rate; 0: what POLAR's law says of model and budget", low=0, high=1)
    min_lr: float = key(0.0, "learning rate at the end of the decay", low=0, high=1)
    warmup_tokens: int = key(0, "tokens over which the learning rate rises from zero", unit=Unit.TOKENS, low=0)
    zero: Zero = key(Zero(), "what the data ranks keep a part of each")


@dataclass
class Reward:
    """Texts that the recipe's models write behind shared prefixes, by which a reward model learns to tell policies apart (POLAR).

    The roster is every milestone and the fine-tuned model with its control, where that is exported, at each temperature.
    """

    prefixes: int = key(0, "beginnings of training documents, each continued by two policies; 0: no roster speaks", low=0)
    test_prefixes: int = key(64, "beginnings of held-out documents, continued by models that training never sees", low=1)
    test_models: int = key(2, "models of the roster that only the test has", low=2)
    shortest_prefix: int = key(1, "tokens of a prefix, at least", unit=Unit.TOKENS, low=1)
    longest_prefix: int = key(1024, "tokens of a prefix, at most", unit=Unit.TOKENS, low=1)
    temperatures: list[float] = key([1.0], "of each model", above=0, high=10)
    top_p: float = key(0.9, "share of the likeliest tokens that may be drawn", above=0, high=1)
    top_k: int = key(50, "number of the likeliest tokens that may be drawn, 0 for all", low=0)
    max_new_tokens: int = key(4096, "tokens a text, at most", unit=Unit.TOKENS, above=0)
    shortest_text: int = key(48, "tokens by which policies can be told apart; shorter texts are dropped", unit=Unit.TOKENS, low=2)
    shared: float = key(0.5, "share of a text that another may begin with; beyond it they are copies and dropped", low=0, high=1)
    backbone: str = key(
        "", "Hugging Face folder the reward model starts from, relative to the project; empty: the last milestone's export"
    )
    backbone_sha256: str = key("", "sha256 of that folder's files; empty floats until `athanor recipe lock`")
    pretrain: RewardTraining = key(RewardTraining(), "training on the roster's triples, from the backbone's weights")
    tune: RewardTraining = key(
        RewardTraining(), "fine-tuning on ranks: an answer on record, and two of models' own to its question"
    )
    ranks_a_question: int = key(4, "ranks made of the answers to a question of offline RL, at most", low=1)
    ranks_aside: float = key(0.1, "share of the questions whose ranks are measured and not learnt", above=0, high=0.5)
    without_pretraining: bool = key(False, "also fine-tune the control that was not trained on triples")
