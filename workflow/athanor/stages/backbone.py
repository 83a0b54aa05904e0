"""Keep the folder `reward.backbone` as an artifact: what the recipe was locked to stays, whatever becomes of the folder."""

import shutil

from athanor.artifacts.run import Outcome, StageError, StageRun, Stopped
from athanor.models.folder_files import MODEL_FOLDER, FolderError, model_files, require_digest
from athanor.recipe.loading import project_folder

MEGABYTE = 1_000_000


def run(stage: StageRun) -> Outcome:
    """`model/`: the folder's config, tokenizer and weights, whose hash is the recipe's. A stopped call keeps whole files."""
    source, into = project_folder() / stage.recipe.reward.backbone, stage.folder / MODEL_FOLDER

    def told(done: int, total: int) -> None:
        stage.progress(done // MEGABYTE, total // MEGABYTE, "MB")
        if stage.stop_requested and done < total:
            raise Stopped(f"the copy of {source} after {done / 1e9:.3g} of {total / 1e9:.3g} GB")

    into.mkdir(exist_ok=True)
    try:
        files = model_files(source)
        total, done = sum(file.stat().st_size for file in files), 0
        for file in files:
            told(done, 2 * total)  # written, then read again
            if not (into / file.name).is_file():
                shutil.copyfile(file, partial := into / f".{file.name}.writing")
                partial.rename(into / file.name)
            done += file.stat().st_size
        require_digest(
            into, stage.recipe.reward.backbone_sha256, lambda read, _: told(total + read, 2 * total), "reward.backbone"
        )
    except FolderError as error:
        shutil.rmtree(into)  # of another folder, or cut short
        raise StageError(str(error)) from error
    names = tuple(f"{MODEL_FOLDER}/{file.name}" for file in files)
    return Outcome(names, {"bytes": total})
