"""Turn a checkpoint into a Hugging Face folder, and prove that it loads."""

from transformers.utils.logging import disable_progress_bar

from athanor.artifacts.run import Outcome, StageError, StageRun, Stopped
from athanor.models.folder_files import MODEL_FOLDER
from athanor.models.huggingface import export
from athanor.models.huggingface_copy import export_folder
from athanor.models.torch_dist import COMPLETE, CheckpointError
from athanor.models.weight_files import ExportError
from athanor.recipe.families import family_of
from athanor.training.checkpoints import FINAL


def run(stage: StageRun) -> Outcome:
    """`model/`: weights, config and tokenizer, as `transformers`, vLLM and lm-eval read them."""
    disable_progress_bar()
    checkpoint = stage.input_named("checkpoint")

    def progress(done: int, total: int) -> None:
        stage.progress(done, total, "weight files")
        if stage.stop_requested and done < total:
            raise Stopped(f"export of {stage.instance} after {done} of {total} weight files")

    tokenizer, folder, trained_in = stage.input_named("tokenizer").folder, stage.folder / MODEL_FOLDER, checkpoint.folder
    try:
        if not (trained_in / FINAL / COMPLETE).is_file():  # it was trained in this form already
            exported = export_folder(trained_in / MODEL_FOLDER, tokenizer, folder, stage.recipe.export, progress)
        else:
            chat = checkpoint.manifest.result.stage in ("sft", "offline", "online")
            exported = export(trained_in / FINAL, tokenizer, folder, stage.recipe.model, stage.recipe.export, progress, chat=chat)
    except (CheckpointError, ExportError) as error:
        raise StageError(str(error)) from error
    trained = {name: checkpoint.counters[name] for name in ("step", "tokens") if name in checkpoint.counters}
    sizes = {"parameters": exported.parameters, "weight_bytes": exported.weight_bytes}
    params = {**sizes, "dtype": stage.recipe.export.dtype, "format": family_of(stage.recipe.model).architecture}
    stage.spool.model(stage.instance, int(trained.get("step", 0)), MODEL_FOLDER, params, source="huggingface")
    return Outcome(
        files=tuple(f"{MODEL_FOLDER}/{name}" for name in exported.files),
        counters={**trained, **sizes},
    )
