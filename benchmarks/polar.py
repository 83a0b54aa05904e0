"""Whether a reward model tells apart policies it never saw: its accuracy beside what needs no training; its server's latency.

Small decoders are trained on what is installed here (benchmarks/polar_policies.py); a seed divides their families into
training and test, draws which policies continue which prefixes, and trains a reward model from the base by a plain loop on one
core. Prefixes of training and test are of different files. Measured on the test's triples: the share ranked right, with a
bootstrap's 95 % interval over prefixes, for the model and for bigrams, embeddings of the untrained encoder and length. Aims:
in every seed at least MARGIN above the best of these; with labels shuffled no better than heads that were drawn at random on
the untrained base; the test loss lower with all families to learn from than with few, at as many prefixes and steps, and
falling with their number in the mean of the seeds, when no text is learnt twice (after many passes few families are learnt
by heart). Then the model and, as its control, the base are fine-tuned on ranks of answers, and choose the best of N answers to
problems that nothing was trained on: the share that a verifier calls right, beside any of N and a right one wherever there is
one (polar_downstream.py; no aim, since the paper has none). Last, callers load a server.

    python benchmarks/polar.py [--quick] [--json FILE] [--seed N] [--seeds N] [--keep FOLDER]

`--quick` is one seed without the shuffled labels and the smaller rosters. `--keep` keeps policies, texts and figures in FOLDER,
from which a run that was cut off goes on. Seed 0 is the one that the learning rate was chosen by; the first is 1.
"""

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import urllib3
from polar_downstream import ASKED, RANKED, TAUGHT, bounds, chosen, problems, ranks_of, teach, try_all
from polar_policies import Corpus, Documents, Scale, read_corpus, write_base, write_family, write_triples
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from athanor.rewards.polar.accuracy import Accuracy, accuracy, wins
from athanor.rewards.polar.baselines import Embeddings, bigrams, length
from athanor.rewards.polar.client import ScoringClient
from athanor.rewards.polar.model import marked_tokenizer, reward_model, write_reward_model
from athanor.rewards.polar.pairs import TripleReader, bradley_terry, pair_loss
from athanor.rewards.polar.ranks import rank_triples
from athanor.rewards.polar.roster import Policy, divide, draw
from athanor.rewards.polar.scoring import Scorer
from athanor.rewards.polar.template import Item
from athanor.rewards.polar.triples import Triple

MARGIN, SEEDS = 0.04, 3
FAMILIES, TEST_FAMILIES = 48, 12
ROSTERS = {"few": 2, "some": 9, "all": FAMILIES - TEST_FAMILIES}  # families to learn from, in one pass over their texts
HEADS = 400  # drawn at random: how far from a half a head comes that knows nothing
TRAIN_PREFIXES, TEST_PREFIXES = 4000, 500
KEEP_EVERY = 50  # steps
PAIRS, STEPS, LR, LONGEST = 32, 2400, 1e-3, 192  # a step; steps; peak; tokens of a sequence
ONE_PASS = 450  # steps, of the rosters: TRAIN_PREFIXES give texts for a few more
TUNING_STEPS = 150  # of fine-tuning, with and without pre-training
ALL, ESSENTIAL = ("trained", "downstream", *ROSTERS, "shuffled"), ("trained", "downstream")
CALLERS, REQUESTS, ITEMS = 4, 50, 4  # threads; requests each; items a request


@dataclass(frozen=True)
class World:
    """The policies of all seeds."""

    folder: Path
    corpus: Corpus
    scale: Scale
    policies: list[Policy]
    models: dict[str, Path]
    train: Documents  # documents of files apart from the test's
    test: Documents


def main() -> int:
    """Measure, print the tables and the aims; exit 1 where one is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--seed", type=int, default=1, help="the first of them")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--keep", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    disable_progress_bar()
    set_verbosity_error()
    with tempfile.TemporaryDirectory() as temporary:
        world = make_world(arguments.keep or Path(temporary))
        seeds = range(arguments.seed, arguments.seed + (1 if arguments.quick else arguments.seeds))
        for parts in (ESSENTIAL,) if arguments.quick else (ESSENTIAL, ALL):
            found = {str(seed): measure(world, seed, parts) for seed in seeds}
        latency = load_server(world.folder / f"reward-{arguments.seed}", world.folder)
    print_table(found)
    missed = judge(found)
    print(
        f"server, {CALLERS} callers, {ITEMS} items a request: p50 {latency['p50']:.3f} s, p99 {latency['p99']:.3f} s, "
        f"{latency['items_a_second']:.0f} items/s; largest difference from offline scores {latency['difference']:.1e} (aim 1e-5)"
    )
    if arguments.json:
        machine = {"cpu": platform.processor(), "cores": os.cpu_count(), "python": platform.python_version()}
        arguments.json.write_text(json.dumps({"machine": machine, "seeds": found, "server": latency}, indent=1))
    return int(missed or latency["difference"] > 1e-5)


def make_world(folder: Path) -> World:
    """Base, families and documents: of seed 0, whatever is measured with them."""
    corpus, scale = read_corpus(folder / "base", 0), Scale()
    write_base(corpus, folder / "base", scale, 0)
    names = [f"f{number:02d}" for number in range(FAMILIES)]
    families = {name: write_family(folder / "base", corpus, folder, name, scale, 0) for name in names}
    policies = [Policy(m, name, t) for name, models in families.items() for m in models for t in scale.temperatures]
    models = {model: where for some in families.values() for model, where in some.items()}
    apart = {name for name, _ in corpus.held_out if draw("test", name.split(":")[0]) % 4 == 0}
    ordered = sorted(corpus.held_out, key=lambda document: draw("order", document[0]))
    train = [document for document in ordered if document[0] not in apart][:TRAIN_PREFIXES]
    test = [document for document in ordered if document[0] in apart][:TEST_PREFIXES]
    return World(folder, corpus, scale, policies, models, train, test)


def measure(world: World, seed: int, parts: Sequence[str]) -> dict[str, Any]:
    """Accuracies and losses on the test's policies, by what was measured; and what is chosen downstream."""
    path = world.folder / f"figures-{seed}.json"
    known: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    roster = divide(world.policies, TEST_FAMILIES, seed)
    test = texts(world, roster.test, world.test, f"test-{seed}", seed)
    train = texts(world, roster.train, world.train, f"train-{seed}", seed)
    base = world.folder / "base"
    if "baselines" not in known:
        known["untrained heads"] = untrained_heads(base, test, seed)
        known["baselines"] = {name: asdict(rate) for name, rate in baselines(world, test).items()}
        known["triples"] = [len(train), len(test)]
    reward = world.folder / f"reward-{seed}"
    for part in (part for part in parts if part not in known):
        if part == "downstream":
            known[part] = downstream(world, {"pretrained": reward, "alone": base}, seed)
        elif part in ROSTERS:
            families = sorted({policy.family for policy in roster.train})[: ROSTERS[part]]
            few = [policy for policy in roster.train if policy.family in families]
            some = texts(world, few, world.train, f"{part}-{seed}", seed) if part != "all" else train
            known[part] = learn(world, Lesson(part, base, some, steps=ONE_PASS), test, seed)
        else:
            wrong = np.random.default_rng(seed).random(len(train)) < (0.5 if part == "shuffled" else 0.0)
            labelled = [turn(triple) if is_wrong else triple for triple, is_wrong in zip(train, wrong, strict=True)]
            known[part] = learn(world, Lesson(part, base, labelled), test, seed)
            if part == "trained":
                (world.folder / f"{part}-{seed}").rename(reward)
        path.write_text(json.dumps(known, indent=1))
    return known


def untrained_heads(base: Path, test: Sequence[Triple], seed: int) -> list[float]:
    """Where 95 % of the accuracies lie that HEADS heads drawn at random have on the base's states.

    They are not those of coins: what tells two texts apart by chance does so in all triples of the same few policies.
    """
    marked = marked_tokenizer(base, LONGEST, fine_tuned=False)
    model: Any = reward_model(base, marked, seed)
    model.score = torch.nn.Linear(model.config.hidden_size, HEADS, bias=False)
    torch.nn.init.normal_(model.score.weight, generator=torch.Generator().manual_seed(seed))
    winners, losers = scores_of(model.eval(), TripleReader(test, marked.template, marked.padding), len(test))
    rates = [float(wins(one, other).mean()) for one, other in zip(winners.T.numpy(), losers.T.numpy(), strict=True)]
    return [float(np.quantile(rates, end)) for end in (0.025, 0.975)]


def scores_of(model: Any, reader: TripleReader, triples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What the model makes of winners and of losers, [triples, heads] each."""
    parts = [range(at, min(at + 64, triples)) for at in range(0, triples, 64)]
    with torch.inference_mode():
        scores = [model(**reader.batch(part).tensors).logits.double().chunk(2) for part in parts]
    winners, losers = (torch.cat(side) for side in zip(*scores, strict=True))
    return winners, losers


def downstream(world: World, backbones: dict[str, Path], seed: int) -> dict[str, Any]:
    """Fine-tune every backbone on the same ranks; what each chooses of N answers to problems that nothing was trained on."""
    kinds = [problems(begin, end, seed) for begin, end in pairwise(accumulate([0, TAUGHT, RANKED, ASKED]))]
    policy = world.folder / f"answers-{seed}"
    teach(world.folder / "base", policy, kinds[0], seed)
    ranked, asked = (
        try_all(policy, some, policy / name, seed) for name, some in zip(("ranked", "asked"), kinds[1:], strict=True)
    )
    held_out = ranks_of(asked, seed)
    found = bounds(asked)
    for name, backbone in backbones.items():
        marked = marked_tokenizer(backbone, LONGEST, fine_tuned=True)
        to_learn, to_test = (list(rank_triples(ranks, marked.tokenizer)) for ranks in (ranks_of(ranked, seed), held_out))
        lesson = Lesson(f"tuned-{name}", backbone, to_learn, fine_tuned=True, steps=TUNING_STEPS)
        learnt = learn(world, lesson, to_test, seed)
        found[name] = {**learnt, **chosen(world.folder / f"tuned-{name}-{seed}", asked, held_out)}
    found["ranks"] = [len(ranks_of(ranked, seed)), len(held_out)]
    return found


def texts(world: World, policies: Sequence[Policy], documents: Documents, label: str, seed: int) -> list[Triple]:
    return write_triples(world.corpus, policies, world.models, documents, world.folder / label, seed)


def baselines(world: World, test: Sequence[Triple]) -> dict[str, Accuracy]:
    """What needs no training."""
    scores = {"bigrams": bigrams, "embeddings": Embeddings(world.folder / "base", padding=1), "length": length}
    before, reference = [t.prefix for t in test], [t.reference for t in test]
    candidates, others = [t.candidate for t in test], [t.other for t in test]
    return {
        name: rate_of(wins(score(before, reference, candidates), score(before, reference, others)), test)
        for name, score in scores.items()
    }


def rate_of(won: Any, test: Sequence[Triple]) -> Accuracy:
    return accuracy(won, [triple.prefix_id for triple in test], seed=0)


@dataclass(frozen=True)
class Lesson:
    """What a reward model learns, from which folder on."""

    name: str
    backbone: Path
    triples: Sequence[Triple]
    fine_tuned: bool = False
    steps: int = STEPS


def learn(world: World, lesson: Lesson, test: Sequence[Triple], seed: int) -> dict[str, Any]:
    """Train a reward model into the folder NAME-SEED. Its accuracy and loss on `test`."""
    began = time.process_time()
    marked = marked_tokenizer(lesson.backbone, LONGEST, fine_tuned=lesson.fine_tuned)
    model: Any = reward_model(lesson.backbone, marked, seed)
    reader = TripleReader(lesson.triples, marked.template, marked.padding, seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.95), weight_decay=0.1)
    kept = world.folder / f"{lesson.name}-{seed}.pt"
    done, spent = _go_on(kept, model, optimizer)
    for step in range(done, lesson.steps):
        for group in optimizer.param_groups:
            group["lr"] = LR * min(1, (step + 1) / 50) * max(0.05, 1 - step / lesson.steps)
        optimizer.zero_grad()
        pair_loss(model, reader.batch(range(step * PAIRS, (step + 1) * PAIRS))).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % KEEP_EVERY == 0:
            _keep(kept, model, optimizer, step + 1, spent + time.process_time() - began)
    held_out = TripleReader(test, marked.template, marked.padding)
    winners, losers = (side[:, 0] for side in scores_of(model.eval(), held_out, len(test)))
    write_reward_model(model, model.state_dict(), world.folder / f"{lesson.name}-{seed}", marked)
    return {
        **asdict(rate_of(wins(winners.numpy(), losers.numpy()), test)),
        "loss": float(bradley_terry(winners, losers).mean()),
        "core_seconds": spent + time.process_time() - began,
    }


def _keep(path: Path, model: Any, optimizer: Any, steps: int, seconds: float) -> None:
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "steps": steps, "seconds": seconds}
    torch.save(state, path.with_suffix(".partial"))
    os.replace(path.with_suffix(".partial"), path)


def _go_on(path: Path, model: Any, optimizer: Any) -> tuple[int, float]:
    """Steps that a run before this one kept, and the seconds they took."""
    if not path.is_file():
        return 0, 0.0
    state = torch.load(path)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["steps"]), float(state["seconds"])


def turn(triple: Triple) -> Triple:
    """The same with candidate and other exchanged."""
    names = (triple.other_policy, triple.policy, triple.prefix_id)
    return Triple(triple.prefix, triple.reference, triple.other, triple.candidate, *names)


def load_server(reward: Path, folder: Path) -> dict[str, float]:
    """Seconds of requests by CALLERS at once, and the largest difference from the scores of this process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    random = np.random.default_rng(0)
    sizes = random.integers(1, 12, size=3 * CALLERS * REQUESTS * ITEMS)
    words = [" ".join(f"name_{number}" for number in random.integers(0, 99, size=size)) for size in sizes]
    items = [Item(*words[at : at + 3]) for at in range(0, len(words), 3)]
    command = [sys.executable, "-m", "athanor.rewards.polar.server", "--model", str(reward), "--port", str(port)]
    with (folder / "server.log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        try:
            client = ScoringClient(f"http://127.0.0.1:{port}", retries=60)
            client.score(items[:1])  # it is up, and warm

            def ask(at: int) -> tuple[float, Sequence[float]]:
                began = time.perf_counter()
                scores = client.score(items[at : at + ITEMS]).scores
                return time.perf_counter() - began, scores

            began = time.perf_counter()
            with ThreadPoolExecutor(CALLERS) as threads:
                said = list(threads.map(ask, range(0, len(items), ITEMS)))
            spent = time.perf_counter() - began
        finally:
            server.terminate()
    seconds, scores = [one for one, _ in said], np.array([score for _, some in said for score in some])
    difference = float(np.abs(scores - np.array(Scorer(reward).score_items(items))).max())
    found = {"p50": float(np.quantile(seconds, 0.5)), "p99": float(np.quantile(seconds, 0.99)), "difference": difference}
    return {**found, "items_a_second": len(items) / spent}


def print_table(found: dict[str, Any]) -> None:
    """One row a seed and what was measured."""
    print("| seed | what | accuracy | 95 % | loss |\n|---|---|---:|---|---:|")
    for seed, known in found.items():
        rows = {
            **known["baselines"],
            **{name: known[name] for name in ("trained", *reversed(ROSTERS), "shuffled") if name in known},
        }
        for name, row in rows.items():
            loss = f"{row['loss']:.4f}" if "loss" in row else ""
            print(f"| {seed} | {name} | {row['rate']:.3f} | {row['low']:.3f} to {row['high']:.3f} | {loss} |")
    print("\n| seed | chosen of N by | right | 95 % | held-out ranks in order | 95 % | loss |\n|---|---|---:|---|---:|---|---:|")
    for seed, known in found.items():
        for name, row in known["downstream"].items():
            if name == "ranks":
                continue
            best, order = row.get("best_of_n", row), row.get("ranks")
            said = f"{order['rate']:.3f} | {order['low']:.3f} to {order['high']:.3f} | {row['loss']:.4f}" if order else "| |"
            print(f"| {seed} | {name} | {best['rate']:.3f} | {best['low']:.3f} to {best['high']:.3f} | {said} |")


def judge(found: dict[str, Any]) -> bool:
    """Print each aim; whether one is missed."""
    aims, of_seeds = {}, []
    for seed, known in found.items():
        best = max(row["rate"] for row in known["baselines"].values())
        gain = known["trained"]["rate"] - best
        aims[f"seed {seed}: {gain:+.3f} above the best baseline (aim {MARGIN:+.2f})"] = gain >= MARGIN
        if "shuffled" in known:
            rate, (_, chance) = known["shuffled"]["rate"], known["untrained heads"]
            aims[f"seed {seed}: labels shuffled: {rate:.3f} (aim: at most {chance:.3f}, as untrained heads have)"] = (
                rate <= chance
            )
            losses = [known[name]["loss"] for name in ROSTERS]
            of_seeds.append(losses)
            aims[f"seed {seed}: loss {_losses(losses)} (aim: the last below the first)"] = losses[-1] < losses[0]
    if of_seeds:
        means = [statistics.mean(some) for some in zip(*of_seeds, strict=True)]
        aims[f"mean of {len(of_seeds)} seeds: loss {_losses(means)} (aim: falling)"] = means == sorted(means, reverse=True)
    for text, met in aims.items():
        print(f"{text}: {'met' if met else 'MISSED'}")
    return not all(aims.values())


def _losses(losses: Sequence[float]) -> str:
    said = ", ".join(f"{loss:.4f}" for loss in losses)
    return f"{said} after one pass with {', '.join(map(str, ROSTERS.values()))} families"


if __name__ == "__main__":
    urllib3.disable_warnings()
    sys.exit(main())
