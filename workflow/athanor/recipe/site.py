"""The site file: where a campaign runs. Nothing in it is part of an artifact's identity."""

import os
from dataclasses import dataclass

from athanor.recipe.graph import TRAINING
from athanor.recipe.schema.keys import key
from athanor.recipe.units import Unit

DEFAULT_SITE = "laptop"


def chosen_site(given: str) -> str:
    """The name of the site file to use: the one given, else ATHANOR_SITE's, else the laptop's."""
    return given or os.environ.get("ATHANOR_SITE") or DEFAULT_SITE


@dataclass
class StageResources:
    """What one job of a stage asks the cluster for; `default` holds what the others leave at zero or empty."""

    cpus_per_task: int = key(0, "cores a rank; 0 takes `default`'s", low=0)
    memory: int = key(0, "memory a node; 0 takes `default`'s", unit=Unit.BYTES, low=0)
    runtime: int = key(0, "walltime of one job; long stages are requeued; 0 takes `default`'s", unit=Unit.MINUTES, low=0)
    gpus_per_node: int = key(0, "GPUs a node", low=0, high=64)
    partition: str = key("", "Slurm partition")
    account: str = key("", "Slurm account")
    qos: str = key("", "Slurm quality of service")
    constraint: str = key("", "Slurm node features")
    extra: str = key("", "more sbatch options: `--switches=1 --mail-type=FAIL`")
    launch_prefix: str = key("", "put before the command on every rank: `apptainer exec --nv image.sif`; empty takes `default`'s")
    python: str = key("", "interpreter of the stage's environment; empty takes `default`'s, then the driver's own")
    in_job_restarts: int = key(
        0,
        "of pretrain and sft: failed ranks start again inside the job so often, by nvidia-resiliency-ext; 0 never",
        low=0,
        high=100,
    )


@dataclass
class Site:
    """One cluster or machine."""

    name: str = key("", "name of the site file")
    store: str = key("store", "folder of all artifacts (project space, never HOME); relative to the project folder")
    tracking_uri: str = key("", "MLflow tracking URI; empty is a sqlite database in the store")
    download_cache: str = key("", "folder of downloaded packages; empty is STORE/downloads")
    ranks_per_node: int = key(8, "training ranks a node", low=1, high=256)
    peak_tflops: float = key(
        0.0,
        "of one rank's device in the recipe's precision, which MFU is measured against; 0 takes the data sheet of known GPUs",
        low=0,
    )
    heartbeat_seconds: int = key(10, "seconds between two progress marks of a stage", unit=Unit.SECONDS, low=1)
    hang_minutes: int = key(
        30, "silence of a training stage that is a hang: stacks saved, job restarted; 0 never", unit=Unit.MINUTES, low=0
    )
    scratch: str = key(
        "", "folder on the nodes' own disks, made there, that is a stage's TMPDIR: `/local/$USER`; empty leaves TMPDIR as it is"
    )
    network_interface: str = key("", "exported as GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME: `ib0`; empty lets them choose")
    secrets: str = key(
        "", "file of NAME=VALUE lines, mode 0600, that each job reads for itself on its node: `~/.athanor/secrets`"
    )
    notify: str = key(
        "",
        'run on the driver\'s machine when a campaign stops or is done, text on its input: `mail -s "$ATHANOR_SUBJECT" me@site`',
    )
    server_command: str = key(
        "",
        "starts a model server for rollouts.engine=server, without a shell: "
        "`vllm serve {model} --served-model-name {name} --port {port} --tensor-parallel-size 8`",
    )
    server_seconds: int = key(1800, "a model server's time to load the model and be healthy", unit=Unit.SECONDS, low=1)
    server_reload: list[str] = key(
        [],
        "requests by which a running server reads other weights from its folder, each PATH or PATH JSON: "
        '`/update_weights_from_disk {{"model_path": "{model}"}}` (SGLang); empty: it is started again each round',
    )
    judge_url: str = key(
        "",
        "endpoint of the model that judges for online.routes, up to /chat/completions: `http://judge:8000/v1`; its key, if it "
        "wants one, is ATHANOR_JUDGE_KEY in `secrets`",
    )
    setup: list[str] = key([], "shell lines before a job's command: `module load cuda/13`")
    environment: dict[str, str] = key({}, "environment variables of every job")
    resources: dict[str, StageResources] = key(
        {}, "by stage (fetch, tokenize, pretrain …) and `default`; sft takes pretrain's before default's"
    )


def resource_entries(stage: str) -> tuple[str, ...]:
    """Which entries of `resources` a stage's job takes, each over those before it: what trains asks for what pretraining does."""
    return ("default", *(["pretrain"] if stage in TRAINING else []), stage)
