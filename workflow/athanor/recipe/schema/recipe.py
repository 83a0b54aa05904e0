"""The typed recipe: every key that decides what is trained, with its unit, its bounds and its meaning.

Nothing here says where it runs (that is `site.py`). `config/README.md` is generated from these fields.
"""

from dataclasses import dataclass
from typing import Any

from athanor.recipe.law import by_law
from athanor.recipe.schema.choices import DocumentFormat, Precision, PreferenceKind, SourceKind, Suite
from athanor.recipe.schema.keys import key
from athanor.recipe.schema.online import Online
from athanor.recipe.schema.post_training import Offline, Preference, Reward, RewardTraining, Rollouts, Sft
from athanor.recipe.schema.training import Model, Pretrain, Training
from athanor.recipe.units import Unit


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
    preference: Preference = key(Preference(), "preference learning on pairs of the model's own answers")
    online: Online = key(Online(), "online RL on the model's own answers to verifiable problems and other prompts")
    rollouts: Rollouts = key(Rollouts(), "how models are asked")
    reward: Reward = key(Reward(), "texts of many policies, for a reward model")
    export: Export = key(Export(), "Hugging Face export")
    evaluate: Evaluate = key(Evaluate(), "evaluation")

    def trainings(self) -> dict[str, Training]:
        """The sections that train something, by name."""
        tuned = {"sft": self.sft} if self.sft.tasks else {}
        offline = {"offline": self.offline} if self.learns_offline else {}
        preferring = {"preference": self.preference} if self.learns_preferences else {}
        online = {"online": self.online} if self.learns_online else {}
        return {"pretrain": self.pretrain, **tuned, **offline, **preferring, **online, **self.reward_trainings()}

    def reward_trainings(self) -> dict[str, RewardTraining]:
        """Those of the reward model, by section, with the law's settings where the recipe leaves them open."""
        sections = {"reward.pretrain": self.reward.pretrain, "reward.tune": self.reward.tune}
        return {
            name: by_law(settings, self.model, self.pretrain.token_budget)
            for name, settings in sections.items()
            if settings.token_budget
        }

    @property
    def learns_offline(self) -> bool:
        """Whether there is offline RL."""
        return bool(self.offline.mixture and self.offline.prompts)

    @property
    def learns_preferences(self) -> bool:
        """Whether there is preference learning."""
        return self.preference.kind is not PreferenceKind.NONE

    @property
    def learns_online(self) -> bool:
        """Whether there is online RL."""
        return bool(self.online.mixture and self.online.prompts)
