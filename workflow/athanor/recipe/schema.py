"""The typed recipe: every key that decides what is trained, with its unit, its bounds and its meaning.

Nothing here says where it runs (that is `site.py`). `config/README.md` is generated from these fields.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from athanor.recipe.units import Unit


def key(
    default: Any,
    doc: str,
    *,
    unit: Unit | None = None,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    required: bool = False,
) -> Any:
    """A recipe field: its default, its docstring, and what values are legal.

    `low` and `high` are inclusive bounds, `above` an exclusive one; `required` fields have no usable default.
    """
    metadata = {"doc": doc, "unit": unit, "low": low, "high": high, "above": above, "required": required}
    if isinstance(default, list | dict) or hasattr(default, "__dataclass_fields__"):
        make = (lambda: type(default)()) if not default else (lambda: type(default)(default))
        if hasattr(default, "__dataclass_fields__"):
            make = type(default)
        return field(default_factory=make, metadata=metadata)
    return field(default=default, metadata=metadata)


class SourceKind(StrEnum):
    """Where the bytes of a source come from."""

    PIP = "pip"  # a wheel on a Python package index
    APT = "apt"  # a Debian package; unpacked, never installed
    LOCAL = "local"  # a file or folder of this machine
    HUGGINGFACE = "huggingface"  # a dataset of the Hugging Face hub
    REASONING_GYM = "reasoning_gym"  # problems of a generator, which come with a verifier


class DocumentFormat(StrEnum):
    """How documents are read out of the files of a source."""

    JSON = "json"  # one JSON value: a list of records, or a mapping whose keys become the field `key`
    JSONL = "jsonl"  # one JSON record a line
    TSV = "tsv"  # tab-separated with declared columns
    CODE = "code"  # one document a file
    TEXT = "text"  # one document a file
    OBO = "obo"  # one document an ontology term
    DICTD = "dictd"  # one document a dictionary headword
    FASTA = "fasta"  # one document a protein or nucleotide record
    ROWS = "rows"  # rows of a Hugging Face dataset


class Schedule(StrEnum):
    """Learning rate over tokens."""

    WSD = "wsd"  # warm-up, stable, decay
    COSINE = "cosine"  # warm-up, then half a cosine down to the end of the budget: another budget is another curve
    CONSTANT = "constant"  # warm-up, then stable


class DecayShape(StrEnum):
    """How the learning rate falls from the peak to the minimum."""

    LINEAR = "linear"
    ONE_MINUS_SQRT = "one_minus_sqrt"
    COSINE = "cosine"


class Precision(StrEnum):
    """Arithmetic of the training step; master weights and moments are float32 in all of them."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP8_DELAYED = "fp8_delayed"  # one scale a tensor, of the step before
    FP8_TENSORWISE = "fp8_tensorwise"  # one scale a tensor
    FP8_BLOCKWISE = "fp8_blockwise"  # one scale for 1 x 128 activations, for 128 x 128 weights
    MXFP8 = "mxfp8"  # one scale for 1 x 32; Blackwell
    FP8_EMULATED = "fp8_emulated"  # the numerics of fp8_blockwise, on a CPU

    @property
    def is_fp8(self) -> bool:
        """Whether matrices multiply in eight bits."""
        return self not in (Precision.FP32, Precision.BF16)


class Router(StrEnum):
    """How tokens choose experts, and what keeps their load even."""

    SOFTMAX = "softmax"  # softmax over the chosen; a loss evens the load
    LOSS_FREE = "loss_free"  # sigmoid scores, and a bias by which experts are chosen alone (DeepSeek-V3)


class Balance(StrEnum):
    """What the load-balancing loss evens out."""

    SEQUENCE = "seq_aux_loss"  # each sequence: the same for any micro-batch size
    MICRO_BATCH = "aux_loss"  # each micro-batch, whose size then decides the result


class Dispatch(StrEnum):
    """How tokens reach the ranks of their experts."""

    ALLTOALL = "alltoall"  # each token to its experts' ranks alone
    ALLGATHER = "allgather"  # all tokens to all expert ranks: for few experts a rank


class Recompute(StrEnum):
    """What the backward pass computes again instead of keeping it."""

    NONE = "none"
    SELECTIVE = "selective"  # core attention
    FULL = "full"  # every layer from its input


class SpikeAction(StrEnum):
    """What follows a spike of loss or gradient norm."""

    LOG = "log"  # train on, say so
    SKIP = "skip"  # leave the weights as they were before the step
    ROLL_BACK = "roll_back"  # go back to the last checkpoint, and on behind the samples of the steps since


class Suite(StrEnum):
    """An evaluation suite."""

    HELD_OUT_PERPLEXITY = "held_out_perplexity"  # bits per byte and nats per token, per domain
    MMLU_DEV = "mmlu_dev"  # 281 questions that ship with lm-eval
    MOLECULE_CHOICE = "molecule_choice"  # which SMILES has this IUPAC name: held-out compounds


class Extract(StrEnum):
    """What a task takes out of a source's records."""

    RECORDS = "records"  # the records themselves
    FUNCTIONS = "functions"  # the documented functions of Python files: fields name, code, docstring, summary


class Responses(StrEnum):
    """Whose response a prompt is trained with; another prompt's is the negative control of its own."""

    OWN = "own"
    SHUFFLED = "shuffled"
    BEST = "best"  # of the model's own, by score
    DRAWN = "drawn"  # any of the model's own: the negative control of the best


class TokenOrder(StrEnum):
    """Whether the tokens of a training sample keep their order; the shuffled one is the negative control."""

    NATURAL = "natural"
    SHUFFLED = "shuffled"


class Backend(StrEnum):
    """Which library spreads fine-tuning over ranks."""

    MEGATRON = "megatron"  # any model, every layout
    DEEPSPEED = "deepspeed"  # dense models in their Hugging Face form, data ranks alone


class OptimizerName(StrEnum):
    """The update rule. `docs/deepspeed.md` has what each keeps and may be combined with."""

    ADAMW = "adamw"  # Loshchilov and Hutter 2019
    LION = "lion"  # Chen et al. 2023
    ADAN = "adan"  # Xie et al. 2022
    MUON = "muon"  # Jordan et al. 2024; AdamW for what is no hidden matrix
    LOMO = "lomo"  # Lv et al. 2023
    ADALOMO = "adalomo"  # Lv et al. 2024

    @property
    def is_fused(self) -> bool:
        """Whether weights are updated in the backward pass, so that no two gradients are there at once."""
        return self in (OptimizerName.LOMO, OptimizerName.ADALOMO)


class PeftKind(StrEnum):
    """Which few weights are trained beside frozen ones."""

    NONE = "none"  # all weights
    LORA = "lora"  # Hu et al. 2021
    DORA = "dora"  # Liu et al. 2024
    IA3 = "ia3"  # Liu et al. 2022
    PREFIX = "prefix"  # Li and Liang 2021
    PROMPT = "prompt"  # Lester et al. 2021
    QLORA = "qlora"  # Dettmers et al. 2023


@dataclass
class Source:
    """One corpus: where it comes from, what it may be used for, how its documents are read."""

    kind: SourceKind = key(SourceKind.PIP, "pip | apt | local | huggingface | reasoning_gym", required=True)
    package: str = key("", "name of the package, dataset or generator; unused by kind local")
    version: str = key("", "exact version (pip, reasoning_gym), version prefix (apt) or revision (huggingface); empty floats")
    sha256: str = key("", "sha256 of the downloaded file; empty floats until `athanor recipe lock`")
    path: str = key("", "file, folder or glob: inside the package, or (kind local) relative to the project folder")
    licence: str = key("", "SPDX expression of the text", required=True)
    domain: str = key("", "domain under which loss and scores are reported", required=True)
    format: DocumentFormat = key(DocumentFormat.TEXT, "how documents are read", required=True)
    columns: list[str] = key([], "column names (tsv without a header)")
    template: str = key("{text}", "the document's text, made from its fields: `{iupac}\\n{smiles}`")
    entity: str = key("", "template of what the document is about (a SMILES string): splits and leak checks go by it")
    max_bytes: int = key(0, "cap on the text taken, 0 for all", unit=Unit.BYTES, low=0)
    shards: int = key(1, "parts the training documents are cut into; each is tokenized by its own job", low=1, high=100_000)
    items: int = key(0, "problems to generate (reasoning_gym)", low=0, high=100_000_000)
    seed: int = key(0, "seed of the generator (reasoning_gym)", low=0)
    options: dict[str, Any] = key({}, "the generator's own settings, by its own names (reasoning_gym)")


@dataclass
class Data:
    """The corpora and what is held out of them."""

    licences_allowed: list[str] = key([], "SPDX expressions this campaign may train on; others stop `check`")
    held_out_fraction: float = key(0.01, "share of documents never trained on", above=0, high=0.5)
    split_seed: int = key(0, "seed of the held-out split", low=0)
    sources: dict[str, Source] = key({}, "the corpora by name")


@dataclass
class Tokenizer:
    """Byte-level BPE trained on the training documents; with `pretrain.init_from` it is that folder's own instead."""

    vocab_size: int = key(4096, "entries, special tokens included", low=300, high=1_000_000)
    sample_bytes: int = key(10_000_000, "training text taken from all sources by mixture weight", unit=Unit.BYTES, above=0)
    min_frequency: int = key(2, "pairs rarer than this are not merged", low=1)
    special_tokens: list[str] = key(
        ["<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>"], "the first ends a document, the second pads"
    )


@dataclass
class Model:
    """A decoder of MoE layers, or of dense ones: RMSNorm, SwiGLU, rotary positions, grouped-query attention."""

    num_layers: int = key(4, "transformer layers", low=1)
    hidden_size: int = key(128, "width of the residual stream", low=8)
    num_attention_heads: int = key(4, "query heads", low=1)
    num_query_groups: int = key(2, "key-value heads; divides the query heads", low=1)
    head_dim: int = key(32, "width of one head", low=4)
    num_experts: int = key(8, "experts a layer; 0: dense layers, without a router", low=0)
    experts_per_token: int = key(2, "experts each token is routed to", low=2)
    expert_ffn_size: int = key(256, "inner width of one expert, or of a dense layer", low=8)
    vocab_size: int = key(4096, "embedding rows; at least the tokenizer's", low=300)
    max_sequence_length: int = key(512, "longest sequence the positions are made for", unit=Unit.TOKENS, low=8)
    rope_base: float = key(10_000.0, "base of the rotary frequencies", above=1)
    norm_epsilon: float = key(1e-6, "epsilon of RMSNorm", above=0, high=1e-2)
    qk_norm: bool = key(True, "RMSNorm on queries and keys")
    tie_embeddings: bool = key(False, "output layer shares the embedding")
    init_std: float = key(0.02, "standard deviation of the initial weights", above=0, high=1)
    aux_loss_coefficient: float = key(1e-2, "load-balancing loss of the router", low=0, high=1)
    z_loss_coefficient: float = key(0.0, "z-loss of the router", low=0, high=1)
    router: Router = key(Router.SOFTMAX, "softmax | loss_free: sigmoid scores, and a bias that evens the load without a loss")
    expert_bias_rate: float = key(1e-3, "what the bias of a loss_free router moves by in a step", above=0, high=1)
    shared_experts: int = key(0, "experts that every token goes to besides, each of expert_ffn_size", low=0)
    balance: Balance = key(Balance.SEQUENCE, "seq_aux_loss | aux_loss: load-balancing loss by sequence or by micro-batch")


@dataclass
class Parallel:
    """How one training step is spread over ranks. Never part of an artifact's identity."""

    ranks: int = key(1, "processes, one a GPU (or one a core on a CPU)", low=1)
    tensor: int = key(1, "tensor-parallel ranks; above 1 they share the sequence, too", low=1)
    pipeline: int = key(1, "pipeline stages", low=1)
    virtual_pipeline: int = key(1, "chunks of layers each pipeline stage holds (interleaved schedule)", low=1)
    ends_count_as_layers: bool = key(False, "embedding and loss take a layer's place when layers are dealt to the stages")
    context: int = key(1, "context-parallel ranks", low=1)
    expert: int = key(1, "expert-parallel ranks", low=1)
    expert_tensor: int = key(0, "ranks that share one expert's matrices; 0: `tensor` where `expert` is 1, else 1", low=0)
    dispatch: Dispatch = key(Dispatch.ALLTOALL, "alltoall | allgather")
    overlap: bool = key(False, "reduce gradients and gather weights while computing")
    micro_batch_size: int = key(1, "sequences a rank computes at once", low=1)
    recompute: Recompute = key(Recompute.NONE, "none | selective | full: activations computed again to save memory")


@dataclass
class Zero:
    """What DeepSpeed's data ranks keep a part of each (Rajbhandari et al. 2020). Never part of an artifact's identity."""

    stage: int = key(1, "0: nothing; 1: optimizer state; 2: and gradients; 3: and weights", low=0, high=3)
    offload: bool = key(False, "optimizer state in host memory")


@dataclass
class Peft:
    """Few weights trained beside frozen ones, on all projections of attention and MLP; merged into them at the end."""

    kind: PeftKind = key(PeftKind.NONE, "none | lora | dora | ia3; prefix, prompt and qlora are known and refused")
    rank: int = key(8, "lora, dora: of the product that is added to a matrix", low=1)
    alpha: float = key(16.0, "lora, dora: that product counts alpha / rank times", above=0)


@dataclass
class BatchSwitch:
    """From `at_tokens` on, a step holds `batch_tokens`."""

    at_tokens: int = key(0, "tokens trained when the switch happens", unit=Unit.TOKENS, above=0, required=True)
    batch_tokens: int = key(0, "tokens a step from then on", unit=Unit.TOKENS, above=0, required=True)


@dataclass
class Optimizer:
    """What a gradient makes of a weight. What a rule does not know is not used by it."""

    name: OptimizerName = key(
        OptimizerName.ADAMW, "adamw | lion | adan | muon | lomo | adalomo; all but adamw for backend deepspeed alone"
    )
    beta1: float = key(0.9, "decay of the first moment", low=0, high=0.9999)
    beta2: float = key(0.95, "decay of the second moment", low=0, high=0.999999)
    beta3: float = key(0.99, "adan: decay of the squares", low=0, high=0.999999)
    momentum: float = key(0.95, "muon: of hidden matrices", low=0, high=0.9999)
    epsilon: float = key(1e-8, "added to the root of the second moment", above=0, high=1e-2)
    weight_decay: float = key(0.1, "decoupled weight decay", low=0, high=10)
    clip_grad: float = key(1.0, "largest gradient norm", above=0)


@dataclass
class Spikes:
    """What counts as a spike of loss or gradient norm, and what follows. Part of a result only where it changes one."""

    action: SpikeAction = key(SpikeAction.LOG, "log | skip | roll_back")
    window: int = key(64, "steps whose median and spread are the usual", low=16, high=10_000)
    deviations: float = key(10.0, "robust standard deviations above the median that make a spike", low=3, high=1000)
    most: int = key(3, "spikes within a window that are skipped or rolled back; one more stops the stage", low=1)


@dataclass
class Checkpoint:
    """What a killed run can continue from. Never part of an artifact's identity."""

    every_tokens: int = key(
        100_000,
        "tokens between two checkpoints; 0 takes the interval of Young and Daly from what a save costs and how often nodes fail",
        unit=Unit.TOKENS,
        low=0,
    )
    node_hours_between_failures: float = key(
        6000.0,
        "of one node, for every_tokens=0: supposed, and worth one failure beside those that this training has seen; 6,000 is "
        "Llama 3's (419 failures of 2,000 nodes in 54 days)",
        above=0,
    )
    asynchronous: bool = key(True, "train on while a save is written; takes host memory for one copy of a rank's state")
    local_first: bool = key(False, "write to the node's TMPDIR first and copy out from there: the site's `scratch`")
    keep: int = key(2, "newest checkpoints kept while a milestone is trained; milestones stay for ever", low=1)


@dataclass
class Training:
    """What every training stage says: how far, how fast, in what steps, over which ranks."""

    token_budget: int = key(
        1_000_000,
        "tokens trained in all; training ends with the step that reaches them",
        unit=Unit.TOKENS,
        above=0,
    )
    sequence_length: int = key(128, "tokens a sequence", unit=Unit.TOKENS, low=8)
    batch_tokens: int = key(2048, "tokens a step", unit=Unit.TOKENS, above=0)
    batch_switches: list[BatchSwitch] = key([], "later batch sizes")
    lr: float = key(3e-3, "peak learning rate", above=0, high=1)
    min_lr: float = key(3e-4, "learning rate at the end of the decay", low=0, high=1)
    schedule: Schedule = key(Schedule.WSD, "wsd | cosine | constant")
    warmup_tokens: int = key(20_000, "tokens over which the learning rate rises from zero", unit=Unit.TOKENS, low=0)
    decay_tokens: int = key(0, "last tokens of the budget, over which WSD decays", unit=Unit.TOKENS, low=0)
    decay_shape: DecayShape = key(DecayShape.LINEAR, "linear | one_minus_sqrt | cosine: the shape of WSD's decay")
    precision: Precision = key(
        Precision.FP32,
        "fp32 | bf16 | fp8_delayed | fp8_tensorwise | fp8_blockwise | mxfp8 (Blackwell) | fp8_emulated (fp8_blockwise on a CPU)",
    )
    bf16_first_layers: int = key(0, "layers at the start of the model that an FP8 precision leaves in BF16", low=0)
    bf16_last_layers: int = key(0, "layers at its end that an FP8 precision leaves in BF16", low=0)
    mixture: dict[str, float] = key({}, "weight of each source among the samples; scaled to sum to one")
    validate_every_tokens: int = key(200_000, "tokens between two validations (logging, not identity)", unit=Unit.TOKENS, above=0)
    validation_tokens: int = key(20_000, "held-out tokens a domain is validated on, at most", unit=Unit.TOKENS, above=0)
    log_every_steps: int = key(10, "steps between two logged points (logging, not identity)", low=1)
    noise_scale_every_steps: int = key(
        0,
        "steps between two measurements of the gradient noise scale, 0 for none; each costs a micro-batch (not identity)",
        low=0,
    )
    optimizer: Optimizer = key(Optimizer(), "the optimizer")
    freeze: list[str] = key([], "weights to leave as they are, by name: `mlp.router`, `embedding`")
    spikes: Spikes = key(Spikes(), "spikes of loss and gradient norm")
    parallel: Parallel = key(Parallel(), "layout over ranks")
    checkpoint: Checkpoint = key(Checkpoint(), "what a killed run continues from")


@dataclass
class Pretrain(Training):
    """Continued pretraining, cut into milestones. Its control trains on samples whose tokens are shuffled."""

    init_from: str = key("", "Hugging Face folder whose weights training starts from, relative to the project; empty: fresh ones")
    init_from_sha256: str = key("", "sha256 of that folder's files; empty floats until `athanor recipe lock`")
    milestone_tokens: list[int] = key([], "earlier milestones, in tokens trained", unit=Unit.TOKENS, above=0)
    shuffled_control: bool = key(False, "also train the negative control: the same model on shuffled tokens")


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
class Sft(Training):
    """Supervised fine-tuning on conversations, packed without reaching into each other; the loss counts responses alone.

    Tokens are those of the packed windows. Its control trains on the same prompts with another prompt's response.
    """

    backend: Backend = key(
        Backend.MEGATRON,
        "megatron | deepspeed (dense models; starts from the exported folder and makes one, docs/deepspeed.md)",
    )
    zero: Zero = key(Zero(), "what the data ranks of backend deepspeed keep a part of each")
    peft: Peft = key(Peft(), "few weights instead of all, for backend deepspeed")
    tasks: dict[str, SftTask] = key({}, "the tasks by name; without any there is no fine-tuning")
    shuffled_control: bool = key(False, "also train the negative control: the same model on shuffled responses")
    answers: Answers = key(Answers(), "held-out questions that are asked")
    search: MixtureSearch = key(MixtureSearch(), "mixtures that are tried")


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


class RolloutEngine(StrEnum):
    """What answers prompts."""

    IN_PROCESS = "in_process"  # the stage's own process, on a CPU or one GPU
    SERVER = "server"  # a server that the stage starts by the site's server_command: vLLM and its like


@dataclass
class Rollouts:
    """How models are asked, in every stage that asks."""

    engine: RolloutEngine = key(RolloutEngine.IN_PROCESS, "in_process | server (the site's server_command); each draws others")


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


@dataclass
class Export:
    """Conversion to a Hugging Face folder."""

    dtype: Precision = key(Precision.FP32, "fp32 | bf16: type of the exported weights")
    max_shard_bytes: int = key(5_000_000_000, "size of one safetensors file", unit=Unit.BYTES, low=1_000_000)


@dataclass
class Evaluate:
    """Suites run on the exported folder with lm-eval."""

    suites: list[Suite] = key(list(Suite), "held_out_perplexity | mmlu_dev | molecule_choice")
    limit: int = key(0, "questions or documents a suite, 0 for all", low=0)
    batch_size: int = key(16, "sequences at once (rounding only, not identity)", low=1)
    seed: int = key(0, "seed of distractors and few-shot examples", low=0)


@dataclass
class Recipe:
    """Everything that decides the result of a campaign."""

    name: str = key("", "name of the recipe; the campaign is called by it")
    seed: int = key(0, "seed of initialisation and sample order", low=0)
    environment: str = key("cpu", "lock file in envs/ whose pins are part of every stage's identity")
    data: Data = key(Data(), "corpora")
    tokenizer: Tokenizer = key(Tokenizer(), "tokenizer")
    model: Model = key(Model(), "model")
    pretrain: Pretrain = key(Pretrain(), "continued pretraining")
    sft: Sft = key(Sft(), "supervised fine-tuning")
    offline: Offline = key(Offline(), "offline RL on the best of the model's own answers")
    rollouts: Rollouts = key(Rollouts(), "how models are asked")
    reward: Reward = key(Reward(), "texts of many policies, for a reward model")
    export: Export = key(Export(), "Hugging Face export")
    evaluate: Evaluate = key(Evaluate(), "evaluation")

    def trainings(self) -> dict[str, Training]:
        """The sections that train something, by name."""
        tuned = {"sft": self.sft} if self.sft.tasks else {}
        return {"pretrain": self.pretrain, **tuned, **({"offline": self.offline} if self.learns_offline else {})}

    @property
    def learns_offline(self) -> bool:
        """Whether there is offline RL."""
        return bool(self.offline.mixture and self.offline.prompts)
