"""Prompt tuning: each conversation of a packed window sees the virtual tokens and no other one, as peft has it, and the folder
that is left says what was trained."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from athanor.models.huggingface import configuration
from athanor.recipe.schema.choices import PeftKind, Precision
from athanor.recipe.schema.training import Optimizer, Peft, Zero
from tests.training import module_program as program
from tests.training.module_program import ModuleJob
from tests.training.recipes import BATCH, recipe
from tests.training.synthetic import LENGTH, VOCABULARY, Packed, PackedChains, packed_held_out

STEPS, TOKENS = 6, 4
WORDS = VOCABULARY - 20  # of the tokenizer: the rows behind them are spare
IDS = tuple(range(WORDS, WORDS + TOKENS))
CLOSE = 1e-5
SHAPE: dict[str, Any] = {"num_experts": 0, "max_sequence_length": LENGTH + TOKENS}
PROMPT = Peft(kind=PeftKind.PROMPT, tokens=TOKENS)


@pytest.fixture(scope="module", params=[False, True], ids=["apart", "tied"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose output layer has weights of its own, or the embedding's, with a tokenizer."""
    from transformers import AutoModelForCausalLM

    path = tmp_path_factory.mktemp("prompts") / "model"
    torch.manual_seed(3)
    shape = recipe(1, model={**SHAPE, "tie_embeddings": request.param}).model
    model = AutoModelForCausalLM.from_config(configuration(shape, torch.float32, None, None))
    with torch.no_grad():
        for weight in model.parameters():  # a fresh model says the same whatever comes before
            weight.add_(0.2 * torch.randn_like(weight))
    model.save_pretrained(path)
    write_tokenizer(path)
    return path


def write_tokenizer(folder: Path) -> None:
    """Of as many words as leave spare rows, with what conversations need."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    special = ["<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>", "[UNK]"]
    words = [*special, *(f"w{number}" for number in range(WORDS - len(special)))]
    tokenizer = Tokenizer(models.WordLevel({word: id for id, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    tokenizer.add_special_tokens(special)
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>", "pad_token": "<|pad|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def _tuned(folder: Path) -> Any:
    from athanor.training.deepspeed.model_folder import read_model
    from athanor.training.deepspeed.prompts import prompt_tuned

    return prompt_tuned(read_model(folder), IDS, fresh=True)


def _alone(sample: Packed) -> list[Packed]:
    """Each conversation as a window of its own."""
    begins = [0, *sample.ends[:-1]]
    parts = [slice(begin, end) for begin, end in zip(begins, sample.ends, strict=True)]
    return [
        Packed(sample.tokens[part], sample.counts[part], np.array([part.stop - part.start]))
        for part in parts
        if sample.counts[part].any()
    ]


def _losses(module: Any, samples: Sequence[Packed]) -> tuple[float, torch.Tensor]:
    """The sum over the samples, and its gradient by the virtual tokens."""
    from athanor.training.deepspeed.windows import PackedBatches, response_losses

    class Listed:
        def sample(self, index: int) -> Packed:
            return samples[index]

    module.zero_grad()
    total = 0.0
    for number in range(len(samples)):
        loss = response_losses(module, PackedBatches(Listed(), IDS).batch([number])).sum()
        loss.backward()
        total += float(loss.detach())
    return total, module.prompt.weight.grad.clone()


def test_packed_windows_losses_and_gradients_are_those_of_their_conversations_alone(folder: Path) -> None:
    module = _tuned(folder)
    for index in range(3):
        sample = PackedChains().sample(index)
        packed, alone = _losses(module, [sample]), _losses(module, _alone(sample))
        assert packed[0] == pytest.approx(alone[0], abs=CLOSE)
        assert (packed[1] - alone[1]).abs().max() < CLOSE
        assert packed[1].abs().max() > 100 * CLOSE
    assert [name for name, weight in module.named_parameters() if weight.requires_grad] == ["prompt.weight"]


def test_windows_of_unequal_length_lose_side_by_side_what_they_lose_apart(folder: Path) -> None:
    from athanor.training.deepspeed.windows import PackedBatches, response_losses

    whole = PackedChains().sample(0)
    fewer = Packed(whole.tokens, np.where(np.arange(LENGTH + 1) < whole.ends[0], whole.counts, False), whole.ends)

    class Two:
        def sample(self, index: int) -> Packed:
            return (whole, fewer)[index]

    module, batches = _tuned(folder), PackedBatches(Two(), IDS)
    with torch.no_grad():
        both = response_losses(module, batches.batch([0, 1]))
        apart = torch.cat([response_losses(module, batches.batch([number])) for number in range(2)])
    assert (both - apart).abs().max() < CLOSE


def test_run_learns_resumes_and_leaves_a_folder_that_says_the_same(folder: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM

    from athanor.models.virtual_tokens import virtual_ids
    from athanor.training.deepspeed.language import measured
    from athanor.training.deepspeed.windows import response_losses

    tied = AutoConfig.from_pretrained(folder).tie_word_embeddings
    ranks, stage, precision, tolerance = (1, 2, Precision.BF16, 2e-2) if tied else (2, 3, Precision.FP32, CLOSE)
    keys: dict[str, Any] = {"lr": 0.3, "warmup_tokens": 0, "optimizer": Optimizer(weight_decay=0.0), "model": SHAPE}
    settings = recipe(ranks, precision=precision, parallel={"micro_batch_size": 2}, **keys)
    whole = ModuleJob(tmp_path / "whole", settings, folder, Zero(stage=stage), STEPS * BATCH, peft=PROMPT)
    assert program.run(whole, ranks) == [0] * ranks, program.log(whole)
    stopped = replace(whole, folder=tmp_path / "stopped", stop_after=17)
    assert program.run(stopped, ranks) == [75] * ranks, program.log(stopped)
    assert program.run(replace(stopped, stop_after=0), ranks) == [0] * ranks, program.log(stopped)
    for file in ("curve.jsonl", "validation.json", "model/model.safetensors", "model/adapter/adapter_model.safetensors"):
        assert (stopped.folder / file).read_bytes() == (whole.folder / file).read_bytes(), file

    told = {when: json.loads((whole.folder / f"validation{when}.json").read_text()) for when in ("_start", "")}
    made = whole.folder / "model"
    assert virtual_ids(made) == IDS
    base, ordinary = (AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32) for path in (folder, made))
    for domain, held_out in packed_held_out().items():
        before, behind = measured(held_out), measured(held_out, IDS)
        for model, held, losses in ((base, before, told["_start"]), (ordinary, behind, told[""])):
            batch = held.batches.batch(range(held.samples))
            with torch.no_grad():
                mean = float(response_losses(model, batch).sum() / batch.weights.sum())
            assert mean == pytest.approx(losses[domain]["nats_per_token"], abs=tolerance)
        assert told[""][domain]["nats_per_token"] < told["_start"][domain]["nats_per_token"] - 0.01

    text = torch.from_numpy(PackedChains().sample(5).tokens[:20])[None]
    beside = PeftModel.from_pretrained(base, str(made / "adapter"))
    with torch.no_grad():
        ours = ordinary(input_ids=torch.cat([torch.tensor([IDS]), text], dim=1)).logits
        theirs = beside(input_ids=text, attention_mask=torch.ones_like(text)).logits
    assert ours.shape == theirs.shape and (ours - theirs).abs().max() < CLOSE


def test_virtual_tokens_without_rows_are_refused_by_name(folder: Path) -> None:
    from athanor.artifacts.run import StageError
    from athanor.training.deepspeed.prompts import first_ids

    assert first_ids(folder, 20) == tuple(range(WORDS, VOCABULARY))
    with pytest.raises(StageError, match=r"320 rows of the embedding leave 20 for virtual tokens; raise model.vocab_size"):
        first_ids(folder, 21)


def test_export_chats_with_the_virtual_tokens_first_and_weights_as_they_were(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from athanor.data.chat import ChatEncoder
    from athanor.data.conversations import Conversation
    from athanor.models.huggingface_copy import export_folder
    from athanor.models.weight_files import ExportError
    from athanor.recipe.schema.recipe import Export
    from athanor.training.deepspeed.model_folder import copy_tokenizer, read_model
    from athanor.training.deepspeed.prompts import write_with_rows

    trained, exported = tmp_path / "trained", tmp_path / "exported"
    vectors = torch.randn(TOKENS, 32, generator=torch.Generator().manual_seed(5))
    trained.mkdir()
    copy_tokenizer(folder, trained)
    write_with_rows(read_model(folder), {"prompt.weight": vectors}, folder, trained, trained / "adapter")
    export_folder(trained, folder, exported, Export(), lambda done, total: None)

    model, tokenizer = AutoModelForCausalLM.from_pretrained(exported), AutoTokenizer.from_pretrained(exported)
    base = read_model(folder)
    assert torch.equal(model.get_input_embeddings().weight[list(IDS)], vectors)
    assert torch.equal(model.get_output_embeddings().weight, base.get_output_embeddings().weight), "what is said stays as it was"
    turns = [{"role": "user", "content": "w1 w2"}, {"role": "assistant", "content": "w3"}]
    ids = tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, return_dict=True)["input_ids"]
    encoder, plain = ChatEncoder(exported), ChatEncoder(folder)
    assert tuple(ids[:TOKENS]) == IDS and tuple(ids[TOKENS:]) == plain.prompt(turns[:1], [])
    assert encoder.prompt(turns[:1], []) == tuple(ids)
    [whole], [without] = (list(some.encode([Conversation("one", turns)])) for some in (encoder, plain))
    assert (list(whole.ids), list(whole.counts)) == ([*IDS, *without.ids], [*[0] * TOKENS, *without.counts])
    assert "virtual" not in tokenizer.decode(ids, skip_special_tokens=True)

    (tmp_path / "other").mkdir()
    copy_tokenizer(folder, tmp_path / "other")
    wider = json.loads((tmp_path / "other" / "tokenizer.json").read_text())
    wider["model"]["vocab"]["more"] = WORDS
    (tmp_path / "other" / "tokenizer.json").write_text(json.dumps(wider))
    with pytest.raises(ExportError, match="it is not the tokenizer that was trained with"):
        export_folder(trained, tmp_path / "other", tmp_path / "wrong", Export(), lambda done, total: None)


def test_training_goes_on_with_the_virtual_tokens_that_a_start_has(folder: Path, tmp_path: Path) -> None:
    """All weights, adapters or the tokens themselves: behind prompt tuning, conversations begin with them as they are asked."""
    from athanor.training.deepspeed.language import fine_tuning
    from athanor.training.deepspeed.model_folder import copy_tokenizer, read_model
    from athanor.training.deepspeed.prompts import PromptTuned, write_with_rows

    vectors = torch.randn(TOKENS, 32, generator=torch.Generator().manual_seed(6))
    copy_tokenizer(folder, tmp_path)
    write_with_rows(read_model(folder), {"prompt.weight": vectors}, folder, tmp_path, tmp_path / "adapter")
    settings = recipe(1, model=SHAPE).pretrain
    losses = {}
    for kind in (PeftKind.NONE, PeftKind.LORA, PeftKind.PROMPT):
        task = fine_tuning(settings, Zero(), Peft(kind=kind, tokens=TOKENS), tmp_path, PackedChains, packed_held_out)
        module, batch = task.module(), task.batches().batch([0])
        assert batch.tensors["tokens"].shape[1] == LENGTH + TOKENS * len(PackedChains.sizes)
        with torch.no_grad():
            losses[kind] = float(task.loss(module, batch).sum())
        if isinstance(module, PromptTuned):
            assert torch.equal(module.prompt.weight, vectors)
    assert losses[PeftKind.LORA] == pytest.approx(losses[PeftKind.NONE], abs=CLOSE)
    assert losses[PeftKind.PROMPT] == pytest.approx(losses[PeftKind.NONE], abs=CLOSE)
