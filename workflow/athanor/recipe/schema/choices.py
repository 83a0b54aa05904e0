"""The words that a recipe's keys may have for a value, and what each stands for."""

from enum import StrEnum


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
    CURATED = "curated"  # its own, of the questions that labels left, as often as they say
    SHUFFLED = "shuffled"
    BEST = "best"  # of the model's own, by score
    DRAWN = "drawn"  # any of the model's own: the negative control of the best


class Difficulty(StrEnum):
    """How often a model answers a question right: levels, the hardest first."""

    UNSOLVED = "unsolved"  # never
    HARD = "hard"
    MEDIUM = "medium"
    EASY = "easy"


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
    SOPHIA = "sophia"  # Liu et al. 2023, by the Gauss-Newton-Bartlett estimate
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


class PreferenceKind(StrEnum):
    """What is learnt from pairs of answers."""

    NONE = "none"
    DPO = "dpo"  # Rafailov et al. 2023: of each pair, which is the better
    KTO = "kto"  # Ethayarajh et al. 2024: of each answer alone, whether it is good


class RolloutEngine(StrEnum):
    """What answers prompts."""

    IN_PROCESS = "in_process"  # the stage's own process, on a CPU or one GPU
    SERVER = "server"  # a server that the stage starts by the site's server_command: vLLM and its like


class OnlineStart(StrEnum):
    """The model that online RL starts from."""

    LAST = "last"  # of these, in their order, that the recipe has
    SFT = "sft"
    OFFLINE = "offline"
    PREFERENCE = "preference"


class RewardEngine(StrEnum):
    """Where the reward model runs that scores answers of online RL."""

    IN_PROCESS = "in_process"  # in each rank's process
    SERVER = "server"  # one a node, which its ranks share


class Route(StrEnum):
    """Who rewards an answer. Each prompt has one."""

    VERIFIER = "verifier"  # 1 where it is right, else 0
    REWARD_MODEL = "reward_model"  # the recipe's own, beside the answer on record
    JUDGE = "judge"  # a model at the site's judge_url
    RULES = "rules"  # of form


class Comparison(StrEnum):
    """How the rewards of one prompt's answers become advantages; groups whose rewards are all the same teach nothing."""

    GROUP_Z = "group_z"  # less the group's mean, by its deviation
    EMA = "ema"  # less the group's mean, by the task's running deviation (Feng et al. 2025)
    RAW = "raw"  # less the group's mean


class PolicyLoss(StrEnum):
    """What is learnt from an advantage."""

    CLIPPED = "clipped"  # the policy gradient of GRPO and its family
    OREAL = "oreal"  # right answers are cloned, wrong ones pushed down (Lyu et al. 2025)


class Grain(StrEnum):
    """What something is counted by."""

    TOKEN = "token"
    SEQUENCE = "sequence"


class OnlineControl(StrEnum):
    """A negative control of online RL."""

    RANDOM = "random"  # rewards drawn at the true rate of the round
    SHUFFLED = "shuffled"  # rewards of other prompts' answers


class MathematicsTask(StrEnum):
    """Generators of the task registry whose answers math-verify judges."""

    CONGRUENCE = "congruence"
    DEFINITE_INTEGRAL = "definite_integral"
    DERIVATIVE = "derivative"
    EIGENVALUES = "eigenvalues"
    EXACT_TRIGONOMETRY = "exact_trigonometry"
    INEQUALITY = "inequality"
    LIMIT = "limit"
    LINEAR_SYSTEM = "linear_system"
    MATRIX_INVERSE = "matrix_inverse"
    POLYNOMIAL_REMAINDER = "polynomial_remainder"
    POLYNOMIAL_ROOTS = "polynomial_roots"
    RECURRENCE = "recurrence"
    SERIES_SUM = "series_sum"
    SUM_OF_POWERS = "sum_of_powers"
    TANGENT_LINE = "tangent_line"
    TAYLOR_POLYNOMIAL = "taylor_polynomial"
    URN_PROBABILITY = "urn_probability"
    WORK_TOGETHER = "work_together"


class MoleculeTask(StrEnum):
    """Generators of the task registry that ask about molecules of the corpus, which RDKit reads."""

    AVERAGE_WEIGHT = "average_weight"
    EXACT_MASS = "exact_mass"
    HYDROGEN_DONORS = "hydrogen_donors"
    MOLECULAR_FORMULA = "molecular_formula"
    MOLECULE_OF_DESCRIPTION = "molecule_of_description"
    NAME_OF_STRUCTURE = "name_of_structure"
    RING_COUNT = "ring_count"
    ROTATABLE_BONDS = "rotatable_bonds"
    SAME_MOLECULE = "same_molecule"
    SCAFFOLD = "scaffold"
    STEREOCENTRES = "stereocentres"
    STRUCTURE_OF_NAME = "structure_of_name"
