# From raw corpora to an evaluated MoE model. The graph itself is athanor/recipe/lifecycle.py; the rules only wire it.
from snakemake.utils import min_version

from athanor.campaign.wiring import Wiring

min_version("9.20")

# snakemake --config recipe=NAME site=NAME set='[pretrain.lr=3e-4,seed=2]'
DEFAULT_RECIPE = "tiny"

campaign = Wiring.from_config(config, DEFAULT_RECIPE)


# How a stage is delivered is the site file's business (launch_prefix, python); this says that rules have an environment.
container: "docker://athanor"


wildcard_constraints:
    fingerprint="[0-9a-f]{16}",


include: "rules/data.smk"
include: "rules/pretrain.smk"
include: "rules/post_training.smk"
include: "rules/difficulty.smk"
include: "rules/own_answers.smk"
include: "rules/reward.smk"
include: "rules/online.smk"
include: "rules/evaluate.smk"


rule all:
    default_target: True
    input:
        campaign.targets(),


if workflow.is_main_process and workflow.output_settings.dryrun:
    campaign.announce_plan()


onstart:
    campaign.start()


onsuccess:
    campaign.finish()


onerror:
    campaign.fail()
