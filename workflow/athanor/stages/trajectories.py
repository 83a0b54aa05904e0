"""What one model of the roster writes behind the prefixes that fall to it, at every temperature."""

from athanor.artifacts.run import Outcome, StageRun, Stopped
from athanor.models.folder_files import MODEL_FOLDER
from athanor.models.virtual_tokens import virtual_ids
from athanor.rl.trajectories import Speaker, write_trajectories
from athanor.stages.asking import engine_of
from athanor.stages.roster import ends_of, plan, speech, tokenizer_of

SHARDS = "shards"


def run(stage: StageRun) -> Outcome:
    """`shards/POLICY/shard-*.jsonl`: two texts a prefix; instance: the model's label."""
    model = stage.input_named("model")
    tokenizer = tokenizer_of(model.folder / MODEL_FOLDER)
    ends = ends_of(tokenizer)

    def progress(done: int, total: int) -> None:
        stage.progress(done, total, "prefixes")
        if stage.stop_requested and done < total:
            raise Stopped(f"trajectories of {stage.instance} after {done} of {total} prefixes; finished shards are kept")

    folder = model.folder / MODEL_FOLDER
    speaker = Speaker(model.fingerprint, lambda: engine_of(stage, folder, ends), virtual_ids(folder))
    continued = plan(stage, tokenizer).all
    shards = write_trajectories(continued, {stage.instance: speaker}, speech(stage), stage.folder / SHARDS, progress)
    files = tuple(path.relative_to(stage.folder).as_posix() for paths in shards.values() for path in paths)
    prefixes = sum(policy.model == stage.instance for item in continued for policy in item.policies)
    return Outcome(files=files, counters={"policies": len(shards), "prefixes": prefixes})
