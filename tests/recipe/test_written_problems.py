"""Bad recipes written by hand: rules between keys, and everything a file or a command line can get wrong."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from athanor.recipe.loading import load_recipe, load_site, parse_set, read_recipe
from athanor.recipe.problems import RecipeError
from tests.recipe.projects import Project, base, put

CHECKOUT = Path(__file__).parents[2]
ANOTHER = {"kind": "pip", "package": "networkx", "version": "3.6.1", "sha256": "a" * 64, "path": "**/*.py"}
ANOTHER |= {"licence": "MIT", "domain": "code", "format": "code"}

BETWEEN_KEYS: dict[str, tuple[dict[str, Any], str]] = {
    "heads that do not divide into groups": (
        {"model.num_attention_heads": 5},
        "model.num_attention_heads=5: not divisible by model.num_query_groups=2; use 4 or 6",
    ),
    "odd head width": ({"model.head_dim": 33}, "model.head_dim=33: rotary positions need an even width; use 34"),
    "more experts a token than there are": (
        {"model.experts_per_token": 9},
        "model.experts_per_token=9: at most model.num_experts=8",
    ),
    "loss-free router without shared experts": (
        {"model.router": "loss_free"},
        "model.shared_experts=0: the Hugging Face form of a loss_free router (Glm4Moe) has some; use 1 or more",
    ),
    "shared experts beside a softmax router": (
        {"model.shared_experts": 1},
        "model.shared_experts=1: only with model.router=loss_free: the Hugging Face form of a softmax router (Qwen3-MoE) has "
        "none; use 0",
    ),
    "loss-free router with tied embeddings": (
        {"model.router": "loss_free", "model.shared_experts": 1, "model.tie_embeddings": True},
        "model.tie_embeddings=True: Glm4Moe, the Hugging Face form of model.router=loss_free, has them apart; use false",
    ),
    "router of a dense model": (
        {"model.num_experts": 0, "model.router": "loss_free", "model.shared_experts": 1},
        "model.num_experts=0: there is no router and no expert to share; use model.router=softmax, shared_experts=0",
    ),
    "tokenizer larger than the embedding": (
        {"tokenizer.vocab_size": 5000},
        "model.vocab_size=4096: smaller than tokenizer.vocab_size=5000; use at least that",
    ),
    "sequence longer than the positions": (
        {"pretrain.sequence_length": 1024},
        "pretrain.sequence_length=1024: longer than model.max_sequence_length=512",
    ),
    "one special token for two jobs": (
        {"tokenizer.special_tokens": ["<|endoftext|>"]},
        "tokenizer.special_tokens=['<|endoftext|>']: at least two different tokens: the first ends a document, the second pads",
    ),
    "experts that do not spread": (
        {"pretrain.parallel.ranks": 3, "pretrain.parallel.expert": 3, "pretrain.batch_tokens": 3072},
        "pretrain.parallel.expert=3: does not divide model.num_experts=8; use 1",
    ),
    "expert ranks of a dense model": (
        {"model.num_experts": 0, "pretrain.parallel.ranks": 2, "pretrain.parallel.expert": 2},
        "pretrain.parallel.expert=2: model.num_experts=0: there are no experts to spread; use 1",
    ),
    "more expert ranks than a stage has": (
        {"pretrain.parallel.ranks": 4, "pretrain.parallel.expert": 8},
        "pretrain.parallel.expert=8: does not divide the ranks of a pipeline stage=4; use 4",
    ),
    "layers that do not divide into stages": (
        {"pretrain.parallel.ranks": 3, "pretrain.parallel.pipeline": 3},
        "pretrain.parallel.pipeline=3: does not divide model.num_layers=4; use 2 or 4",
    ),
    "ranks that hold no whole model": (
        {"pretrain.parallel.ranks": 5, "pretrain.parallel.tensor": 2},
        "pretrain.parallel.ranks=5: not divisible by tensor×pipeline×context=2; use 4 or 6",
    ),
    "key-value heads that do not spread over tensor ranks": (
        {"pretrain.parallel.ranks": 4, "pretrain.parallel.tensor": 4},
        "pretrain.parallel.tensor=4: does not divide model.num_query_groups=2; use 2",
    ),
    "chunks of layers without a pipeline": (
        {"pretrain.parallel.virtual_pipeline": 2},
        "pretrain.parallel.virtual_pipeline=2: needs pretrain.parallel.pipeline above 1; use 1",
    ),
    "layers that do not spread over chunks": (
        {"pretrain.parallel.ranks": 2, "pretrain.parallel.pipeline": 2, "pretrain.parallel.virtual_pipeline": 4},
        "pretrain.parallel.virtual_pipeline=4: does not divide the layers of a stage=2; use 2",
    ),
    "interleaving of too few micro-batches": (
        {"pretrain.parallel.ranks": 2, "pretrain.parallel.pipeline": 2, "pretrain.parallel.virtual_pipeline": 2}
        | {"pretrain.batch_tokens": 3 * 128},
        "pretrain.batch_tokens=384: not divisible by sequence_length×micro_batch_size×data-parallel ranks×pipeline=256; "
        "use 256 or 512",
    ),
    "ends that count as layers without a pipeline": (
        {"pretrain.parallel.ends_count_as_layers": True},
        "pretrain.parallel.ends_count_as_layers=True: needs pretrain.parallel.pipeline above 1; use false",
    ),
    "layers and ends that do not spread over the stages": (
        {"pretrain.parallel.ranks": 4, "pretrain.parallel.pipeline": 4, "pretrain.parallel.ends_count_as_layers": True}
        | {"pretrain.parallel.micro_batch_size": 1},
        "pretrain.parallel.pipeline=4: does not divide model.num_layers+2=6; use 3 or 6",
    ),
    "ends that leave a stage without layers": (
        {"pretrain.parallel.ranks": 6, "pretrain.parallel.pipeline": 6, "pretrain.parallel.ends_count_as_layers": True},
        "pretrain.parallel.ends_count_as_layers=True: the first and the last of 6 chunks would have no layer; use false",
    ),
    "experts whose gradients Megatron would not sum": (
        {"pretrain.parallel.ranks": 2, "pretrain.parallel.tensor": 2, "pretrain.parallel.expert_tensor": 1},
        "pretrain.parallel.expert_tensor=1: with expert=1 the experts' gradients would be wrong; use 0 or 2",
    ),
    "more ranks an expert than there are": (
        {"pretrain.parallel.ranks": 2, "pretrain.parallel.expert": 2, "pretrain.parallel.expert_tensor": 2},
        "pretrain.parallel.expert_tensor=2: does not divide the ranks of a pipeline stage over expert=1; use 1",
    ),
    "sequence that context parallelism cannot cut": (
        {"pretrain.sequence_length": 130, "pretrain.batch_tokens": 1300}
        | {"pretrain.parallel.ranks": 2, "pretrain.parallel.context": 2},
        "pretrain.sequence_length=130: not divisible by 2×context×tensor=4; use 128 or 132",
    ),
    "batch of no whole sequences": (
        {"pretrain.batch_tokens": 2000},
        "pretrain.batch_tokens=2000: not divisible by sequence_length×micro_batch_size×data-parallel ranks=128; use 1920 or 2048",
    ),
    "batch after a switch of no whole sequences": (
        {"pretrain.batch_switches": [{"at_tokens": "200K", "batch_tokens": 5000}]},
        "pretrain.batch_switches[0].batch_tokens=5000: not divisible by sequence_length×micro_batch_size×data-parallel "
        "ranks=128; use 4992 or 5120",
    ),
    "switches out of order": (
        {
            "pretrain.batch_switches": [
                {"at_tokens": "400K", "batch_tokens": 4096},
                {"at_tokens": "200K", "batch_tokens": 8192},
            ]
        },
        "pretrain.batch_switches=[400000, 200000]: must be in rising order, each once",
    ),
    "milestone beyond the budget": (
        {"pretrain.milestone_tokens": ["400K", "2M"]},
        "pretrain.milestone_tokens[1]='2M': does not fit pretrain.token_budget=1M, where the last milestone ends by "
        "itself; leave it out",
    ),
    "milestones out of order": (
        {"pretrain.milestone_tokens": ["600K", "400K"]},
        "pretrain.milestone_tokens=[600000, 400000]: must be rising, each once",
    ),
    "warm-up longer than the budget": (
        {"pretrain.warmup_tokens": "2M", "pretrain.decay_tokens": 0},
        "pretrain.warmup_tokens='2M': more than the 1000000 tokens there are for it",
    ),
    "milestone within a step": (
        {"pretrain.milestone_tokens": ["400K", "401K"]},
        "pretrain.milestone_tokens[1]='401K': ends within the step of 2048 tokens that may end the milestone before; use at "
        "least 402048",
    ),
    "budget within a step of the last milestone": (
        {"pretrain.milestone_tokens": ["999K"]},
        "pretrain.token_budget='1M': ends within the step of 2048 tokens that may end the milestone before; use at least 1001048",
    ),
    "decay of a cosine": (
        {"pretrain.schedule": "cosine", "pretrain.decay_tokens": "200K"},
        "pretrain.decay_tokens='200K': unused by pretrain.schedule=cosine, which falls from the warm-up to the end of the "
        "budget; use 0",
    ),
    "decay into the warm-up": (
        {"pretrain.decay_tokens": "990K"},
        "pretrain.decay_tokens='990K': more than the 980000 tokens there are for it",
    ),
    "floor above the peak": (
        {"pretrain.min_lr": 0.1},
        "pretrain.min_lr=0.1: above the peak pretrain.lr=0.003",
    ),
    "unknown source in the mixture": (
        {"pretrain.mixture": {"prose": 1, "poetry": 1}},
        "pretrain.mixture.poetry=1.0: no such source; data.sources has prose, chemistry",
    ),
    "weight of nothing": (
        {"pretrain.mixture.prose": 0},
        "pretrain.mixture.prose=0.0: must be above 0; leave the source out to skip it",
    ),
    "weights that cancel out": (
        {"pretrain.mixture": {"prose": 1, "chemistry": -1}},
        "pretrain.mixture.chemistry=-1.0: must be above 0; leave the source out to skip it",
    ),
    "weight too small for the sample order": (
        {"pretrain.mixture": {"prose": 10_000, "chemistry": 1}},
        "pretrain.mixture.chemistry=1.0: less than 1/2048 of the mixture; use at least 4.88",
    ),
    "empty mixture": (
        {"pretrain.mixture": {}},
        "pretrain.mixture: is empty: give weights to prose, chemistry",
    ),
    "licence not allowed": (
        {"data.licences_allowed": ["MIT"]},
        "data.sources.prose.licence='CC0-1.0': not among data.licences_allowed=['MIT']; add it there if this campaign may use it",
    ),
    "missing local file": (
        {"data.sources.prose.path": "corpora/poems.txt"},
        "data.sources.prose.path='corpora/poems.txt': no such file; relative paths start at {project}",
    ),
    "glob that matches nothing": (
        {"data.sources.prose.path": "corpora/**/*.poem"},
        "data.sources.prose.path='corpora/**/*.poem': no such file; relative paths start at {project}",
    ),
    "local source without a path": (
        {"data.sources.prose.path": ""},
        "data.sources.prose.path='': no such file; relative paths start at {project}",
    ),
    "floating version": (
        {"data.sources.code": {**ANOTHER, "version": "", "sha256": ""}},
        "data.sources.code='networkx': floats (no version); lock it: athanor recipe lock bad",
    ),
    "version without a hash": (
        {"data.sources.code": {**ANOTHER, "sha256": ""}},
        "data.sources.code='networkx 3.6.1': floats (no sha256); lock it: athanor recipe lock bad",
    ),
    "local file without a hash": (
        {"data.sources.prose.sha256": ""},
        "data.sources.prose='corpora/prose.txt': floats (no sha256); lock it: athanor recipe lock bad",
    ),
    "hash that is none": (
        {"data.sources.code": {**ANOTHER, "sha256": "abc"}},
        "data.sources.code.sha256='abc': expected 64 hexadecimal digits",
    ),
    "package without a name": (
        {"data.sources.code": {**ANOTHER, "package": ""}},
        "data.sources.code.package='': data.sources.code.kind=pip needs a package name",
    ),
    "source whose name is no file name": (
        {"data.sources.my/code": ANOTHER},
        "data.sources.my/code: a source's name is letters, digits and _ (it becomes a file name)",
    ),
    "fp8 on the cpu environment": (
        {"pretrain.precision": "fp8_blockwise"},
        "pretrain.precision='fp8_blockwise': needs Transformer Engine: set environment=gpu, or use fp8_emulated",
    ),
    "fp8 tile": (
        {"pretrain.precision": "fp8_tensorwise", "environment": "gpu", "model.expert_ffn_size": 250},
        "model.expert_ffn_size=250: not divisible by the FP8 tile=16; use 240 or 256",
    ),
    "emulated fp8 on the gpu environment": (
        {"pretrain.precision": "fp8_emulated", "environment": "gpu"},
        "pretrain.precision='fp8_emulated': emulates fp8_blockwise on a CPU: set environment=cpu, or use fp8_blockwise",
    ),
    "mxfp8 tile": (
        {"pretrain.precision": "mxfp8", "environment": "gpu", "model.head_dim": 48},
        "model.head_dim=48: not divisible by the FP8 tile=32; use 32 or 64",
    ),
    "fp8 tile of a part of an expert": (
        {
            "pretrain.precision": "fp8_blockwise",
            "environment": "gpu",
            "model.expert_ffn_size": 144,
            "pretrain.parallel": {"ranks": 2, "tensor": 2},
        },
        "model.expert_ffn_size=144: not divisible by the FP8 tile×expert_tensor=32; use 128 or 160",
    ),
    "fp8 tile of tokens": (
        {
            "pretrain.precision": "fp8_blockwise",
            "environment": "gpu",
            "pretrain.sequence_length": 40,
            "pretrain.parallel": {"ranks": 4, "context": 4, "micro_batch_size": 1},
        },
        "pretrain.sequence_length=40: not divisible by the FP8 tile×context=64; use 64",
    ),
    "layers kept in bf16 under bf16": (
        {"pretrain.precision": "bf16", "pretrain.bf16_first_layers": 1},
        "pretrain.bf16_first_layers=1: unused by pretrain.precision=bf16; use 0",
    ),
    "layers kept in bf16 under delayed scaling": (
        {"pretrain.precision": "fp8_delayed", "environment": "gpu", "pretrain.bf16_last_layers": 1},
        "pretrain.bf16_last_layers=1: pretrain.precision=fp8_delayed keeps the scales of all layers together; use 0, or "
        "fp8_tensorwise or fp8_blockwise",
    ),
    "more layers kept in bf16 than a pipeline stage has": (
        {
            "pretrain.precision": "fp8_emulated",
            "pretrain.bf16_first_layers": 3,
            "model.num_layers": 4,
            "pretrain.parallel": {"ranks": 2, "pipeline": 2},
        },
        "pretrain.bf16_first_layers=3: more than model.num_layers=4/pipeline=2; use at most 2",
    ),
    "all layers kept in bf16": (
        {
            "pretrain.precision": "fp8_emulated",
            "pretrain.bf16_first_layers": 2,
            "pretrain.bf16_last_layers": 2,
            "model.num_layers": 4,
        },
        "pretrain.bf16_last_layers=2: no layer would be left in FP8; use pretrain.precision=bf16, or at most 1",
    ),
    "exported as fp8": (
        {"export.dtype": "fp8_delayed"},
        "export.dtype='fp8_delayed': weights are exported as fp32 or bf16",
    ),
    "suite without its domain": (
        {"data.sources.chemistry.domain": "spectra"},
        "evaluate.suites=['held_out_perplexity', 'mmlu_dev', 'molecule_choice']: molecule_choice needs a source of "
        "domain molecules in data.sources; add one or leave the suite out",
    ),
    "suite named twice": (
        {"evaluate.suites": ["mmlu_dev", "mmlu_dev"]},
        "evaluate.suites=['mmlu_dev', 'mmlu_dev']: names a suite twice",
    ),
    "environment without a lock": (
        {"environment": "tpu"},
        "environment='tpu': no such environment in {project}/envs; there is cpu or gpu",
    ),
    "another name than the file's": (
        {"name": "good"},
        "name='good': is the file's own name, bad; leave the key out (campaign= names a campaign)",
    ),
    "version that YAML reads as a number": (
        {"data.sources.prose.version": 1.10},
        'data.sources.prose.version=1.1: expected text; put it in quotes, such as "1.10"',
    ),
}


@pytest.mark.parametrize("case", BETWEEN_KEYS)
def test_bad_recipe_reports_what_where_and_the_way_out(project: Project, case: str) -> None:
    changes, line = BETWEEN_KEYS[case]
    data = base()
    for path, value in changes.items():
        put(data, path, value)
    project.write("bad", data)
    assert line.format(project=project.root) in [str(problem) for problem in read_recipe("bad").problems]


def test_missing_file_of_an_absolute_glob_is_found_like_a_relative_one(project: Project) -> None:
    data = put(base(), "data.sources.prose.path", f"{project.root}/corpora/*.txt")
    project.write("absolute", data)
    assert read_recipe("absolute").problems == ()


def test_recipe_without_sources_says_so_once_a_key(project: Project) -> None:
    project.write("empty", {"evaluate": {"suites": ["mmlu_dev"]}})
    assert [str(p) for p in read_recipe("empty").problems] == [
        "data.sources: is empty: declare at least one corpus",
        "pretrain.mixture: is empty: give weights to the sources",
    ]


UNREADABLE = {
    "broken yaml": ("model: [1, 2\n", "bad.yaml: is not valid YAML: "),
    "duplicate key": ("seed: 1\nseed: 2\n", "bad.yaml: is not valid YAML: "),
    "a list": ("- seed\n", "bad.yaml: expected `key: value` lines"),
    "a number": ("42\n", "bad.yaml: is not valid YAML: "),
    "unknown interpolation": ("seed: ${seeed}\n", "bad.yaml: is not valid YAML: "),
    "python object": ("seed: !!python/object:os.system x\n", "bad.yaml: is not valid YAML: "),
    "extends itself": ("extends: bad\n", "extends='bad': extends itself in a circle"),
    "extends nothing": ("extends: bse\n", "recipe='bse': no file config/recipes/bse.yaml; did you mean base?"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_unreadable_recipe_is_one_problem_with_its_reason(project: Project, case: str) -> None:
    text, expected = UNREADABLE[case]
    project.write("bad", text)
    with pytest.raises(RecipeError) as caught:
        read_recipe("bad")
    assert [str(problem).startswith(expected) for problem in caught.value.problems] == [True]


def test_circle_of_three_recipes_is_found(project: Project) -> None:
    for name, other in (("one", "two"), ("two", "three"), ("three", "one")):
        project.write(name, {"extends": other})
    with pytest.raises(RecipeError, match="extends itself in a circle"):
        load_recipe("one")


def test_bytes_that_are_no_text_are_a_problem_not_a_crash(project: Project) -> None:
    project.write("bad", "").write_bytes(b"seed: \xff\xfe\n")
    with pytest.raises(RecipeError, match=r"bad\.yaml: is not valid YAML"):
        read_recipe("bad")


def test_damaged_lock_is_named(project: Project) -> None:
    project.write("base.lock", "data: [\n")
    with pytest.raises(RecipeError, match=r"base\.lock\.yaml: is not valid YAML"):
        read_recipe("base")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bsae", "recipe='bsae': no file config/recipes/bsae.yaml; did you mean base?"),
        ("zzz", "recipe='zzz': no file config/recipes/zzz.yaml; there are base"),
        ("other/zzz.yaml", "recipe='other/zzz.yaml': no file other/zzz.yaml; there are base"),
    ],
)
def test_unknown_recipe_names_the_nearest(project: Project, name: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(name)
    assert [str(problem) for problem in caught.value.problems] == [message]


def test_unknown_site_names_the_nearest(project: Project) -> None:
    with pytest.raises(RecipeError, match=r"site='labtop': no file config/sites/labtop.yaml; did you mean laptop\?"):
        load_site("labtop")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pretrain.lr", "set='pretrain.lr': an override reads key=value, such as pretrain.lr=3e-4"),
        ("=3", "set='=3': an override reads key=value, such as pretrain.lr=3e-4"),
        ("seed.x=3", "seed.x='3': seed is not a section"),
        ("pretrain.lr=fast", "pretrain.lr='fast': expected a number, such as 3e-4"),
        ("pretrian.lr=3e-4", "pretrian={'lr': '3e-4'}: no such key; did you mean pretrain?"),
        ("pretrain.lrr=3e-4", "pretrain.lrr='3e-4': no such key; did you mean pretrain.lr?"),
        ("model.qk_norm=1", "model.qk_norm='1': expected true or false"),
        ("evaluate.suites=mmlu", "evaluate.suites='mmlu': expected a list, such as [a, b]"),
        ("evaluate.suites=[mmlu]", "evaluate.suites[0]='mmlu': expected held_out_perplexity | mmlu_dev | "
         "molecule_choice; did you mean mmlu_dev?"),
        ("pretrain.milestone_tokens=[400K", "pretrain.milestone_tokens='[400K': expected a list, such as [a, b]"),
        ("pretrain.lr=nan", "pretrain.lr='nan': expected a number, such as 3e-4"),
        ("pretrain.token_budget=1e400", "pretrain.token_budget='1e400': expected tokens, such as 5T, 400B, 66M or "
         "800_000"),
    ],
)  # fmt: skip
def test_bad_override_is_a_problem(project: Project, override: str, message: str) -> None:
    assert [str(problem) for problem in read_recipe("base", [override]).problems] == [message]


def test_white_space_between_overrides_shows_the_list_form() -> None:
    with pytest.raises(RecipeError, match=r"write the list form: --config set='\[pretrain.lr=3e-4,seed=2\]'"):
        parse_set("pretrain.lr=3e-4 seed=2")


def test_many_problems_come_in_one_report_a_line_each(project: Project) -> None:
    data = base()
    changes = {
        "seeed": 1, "model.num_layers": 0, "model.head_dim": 33, "pretrain.lr": "fast", "pretrain.batch_tokens": 2000,
        "pretrain.token_budget": "5 parsecs", "data.sources.prose.licence": "GPL-3.0-only",
        "data.sources.chemistry.path": "corpora/nothing", "evaluate.suites": ["mmlu"], "export.dtype": "int4",
    }  # fmt: skip
    for path, value in changes.items():
        put(data, path, value)
    project.write("bad", data)
    with pytest.raises(RecipeError) as caught:
        load_recipe("bad")
    title, *lines = str(caught.value).splitlines()
    assert title == "recipe bad: 10 problems; nothing was started"
    assert sorted(line.strip().split("=")[0] for line in lines) == sorted(
        path if path != "evaluate.suites" else "evaluate.suites[0]" for path in changes
    )


def cli(project: Project, *command: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(CHECKOUT / "workflow"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "ATHANOR_PROJECT": str(project.root), "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=project.root, env=environment, capture_output=True, text=True, check=False
    )


def test_recipe_check_prints_every_problem_and_exits_1(project: Project) -> None:
    answer = cli(project, "athanor", "recipe", "check", "base", "pretrain.lr=7", "seeed=1")
    assert answer.returncode == 1
    assert answer.stdout.splitlines() == [
        "pretrain.lr='7': must be above 0 and at most 1",
        "seeed='1': no such key; did you mean seed?",
    ]


def test_recipe_check_of_a_good_recipe_exits_0(project: Project) -> None:
    answer = cli(project, "athanor", "recipe", "check", "base")
    assert (answer.returncode, answer.stdout) == (0, "recipe base is fine: 18 stages\n")


@pytest.mark.parametrize("dry", [["--dry-run"], []], ids=["dry run", "run"])
def test_snakemake_with_a_bad_recipe_starts_nothing(project: Project, dry: list[str]) -> None:
    profile = str(CHECKOUT / "profiles" / "default")
    answer = cli(
        project, "snakemake", "--snakefile", str(CHECKOUT / "Snakefile"), "--profile", profile, *dry,
        "--config", "recipe=base", "set=[pretrain.lr=7,seeed=1]",
    )  # fmt: skip
    assert answer.returncode != 0
    assert "recipe base: 2 problems; nothing was started" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not (project.root / "store").exists()


def test_snakemake_with_an_unknown_config_key_names_it(project: Project) -> None:
    answer = cli(
        project, "snakemake", "--snakefile", str(CHECKOUT / "Snakefile"), "--dry-run",
        "--config", "recipe=base", "lr=3e-4",
    )  # fmt: skip
    assert answer.returncode != 0
    assert "--config lr=…: there is no such setting; a recipe's key is changed by set=key=value" in answer.stderr
    assert not (project.root / "store").exists()
