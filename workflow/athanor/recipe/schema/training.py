"""The model, and what every training stage says of its steps, ranks and checkpoints."""

from dataclasses import dataclass

from athanor.recipe.schema.choices import (
    Balance,
    DecayShape,
    Dispatch,
    OptimizerName,
    PeftKind,
    Precision,
    Recompute,
    Router,
    Schedule,
    SpikeAction,
)
from athanor.recipe.schema.external import External
from athanor.recipe.schema.keys import key
from athanor.recipe.units import Unit


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
    """Few weights trained beside frozen ones (qlora: rounded to four bits), on all projections of attention and MLP, and merged
    into them at the end; or (prompt) virtual tokens before every conversation, which become rows of the embedding."""

    kind: PeftKind = key(PeftKind.NONE, "none | lora | qlora | dora | ia3 | prompt; prefix is known and refused")
    rank: int = key(8, "lora, qlora, dora: of the product that is added to a matrix", low=1)
    alpha: float = key(16.0, "lora, qlora, dora: that product counts alpha / rank times", above=0)
    tokens: int = key(16, "prompt: virtual tokens; each takes a row of model.vocab_size that the tokenizer leaves", low=1)


@dataclass
class BatchSwitch:
    """From `at_tokens` on, a step holds `batch_tokens`."""

    at_tokens: int = key(0, "tokens trained when the switch happens", unit=Unit.TOKENS, above=0, required=True)
    batch_tokens: int = key(0, "tokens a step from then on", unit=Unit.TOKENS, above=0, required=True)


@dataclass
class Optimizer:
    """What a gradient makes of a weight. What a rule does not know is not used by it."""

    name: OptimizerName = key(
        OptimizerName.ADAMW, "adamw | lion | adan | sophia | muon | lomo | adalomo; all but adamw for backend deepspeed alone"
    )
    beta1: float = key(0.9, "decay of the first moment", low=0, high=0.9999)
    beta2: float = key(0.95, "decay of the second moment", low=0, high=0.999999)
    beta3: float = key(0.99, "adan: decay of the squares", low=0, high=0.999999)
    momentum: float = key(0.95, "muon: of hidden matrices", low=0, high=0.9999)
    rho: float = key(0.04, "sophia: what the curvature counts in the denominator; gamma in the paper", above=0, high=1000)
    estimate_every_steps: int = key(10, "sophia: steps between two estimates of the curvature; each costs a pass", low=1)
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
    average: int = key(0, "last so many milestones, the end among them, whose mean weights are evaluated; 0: none", low=0)
    shuffled_control: bool = key(False, "also train the negative control: the same model on shuffled tokens")
    external: External = key(External(), "another trainer instead of Athanor's own, for the milestones")
