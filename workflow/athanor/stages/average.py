"""Average the weights of the last points of a training; instance `pretrain`, `offline` or `online`."""

from athanor.artifacts.run import Outcome, StageError, StageRun, Stopped
from athanor.models.averaging import AveragingError, average_folders
from athanor.models.folder_files import MODEL_FOLDER, POINTS_FOLDER


def run(stage: StageRun) -> Outcome:
    """`model/`: a folder as `export` writes it."""
    points = list(stage.inputs.values())
    folders = [folder for point in points for folder in (*sorted((point.folder / POINTS_FOLDER).glob("[0-9]*")), point.folder)]

    def progress(done: int, total: int) -> None:
        stage.progress(done, total, "weight files")
        if stage.stop_requested and done < total:
            raise Stopped(f"average of {stage.instance} after {done} of {total} weight files; those are kept")

    try:
        files = average_folders([folder / MODEL_FOLDER for folder in folders], stage.folder / MODEL_FOLDER, progress)
    except AveragingError as error:
        raise StageError(str(error)) from error
    step = max(int(point.counters.get("step", 0)) for point in points)
    described = {"averaged": ", ".join(folder.name for folder in folders)}
    stage.spool.model(f"average-{stage.instance}", step, MODEL_FOLDER, described, source="huggingface")
    return Outcome(tuple(f"{MODEL_FOLDER}/{name}" for name in files), {"models": len(folders), "step": step})
