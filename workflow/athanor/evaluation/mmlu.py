"""The suite `mmlu_dev`: 281 four-choice questions of 57 subjects, which ship with lm-eval (Hendrycks et al. 2021)."""

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path

from athanor.evaluation.tasks import Metric, OutputType, Row, SuiteError, Task, choose
from athanor.recipe.schema.choices import Suite

PROMPTS = "tasks/mmlu/flan_cot_fewshot/_cot_prompts.json"  # inside the package lm_eval
LETTERS = "ABCD"
QUESTIONS = 281  # of 282: one in chemistry has five choices
METRICS = (Metric("acc", higher_is_better=True, chance=1 / len(LETTERS)),)

# A worked example: `…?\n(A) … (B) … (C) … (D) …\nA: Let's think step by step. … The answer is (C).`
_EXAMPLE = re.compile(
    r"(?P<question>.*?)\s*\(A\) ?(?P<A>.*?)\s*\(B\) ?(?P<B>.*?)\s*\(C\) ?(?P<C>.*?)\s*\(D\) ?(?P<D>.*?)\s*\n"
    r"A: .*[Tt]he answer is \(?(?P<answer>[A-D])\)?",
    re.DOTALL,
)


def mmlu_dev_task(limit: int, seed: int) -> Task:
    """MMLU's development questions in its usual zero-shot form. Raises SuiteError when lm-eval ships others than expected."""
    rows = list(questions())
    if len(rows) != QUESTIONS:
        raise SuiteError(
            f"lm-eval's {PROMPTS} holds {len(rows)} four-choice questions, expected {QUESTIONS}; pin lm-eval to 0.4.13"
        )
    chosen = choose(rows, limit, seed, lambda row: str(row["id"]))
    return Task(Suite.MMLU_DEV, "mmlu_dev", OutputType.MULTIPLE_CHOICE, chosen, METRICS, {"questions": len(chosen)})


def questions() -> Iterator[Row]:
    """All questions: id, prompt, choices (the letters), answer (a letter's index)."""
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or spec.origin is None:
        raise SuiteError("suite mmlu_dev takes its questions from the package lm-eval, which is not installed here")
    for subject, examples in json.loads((Path(spec.origin).parent / PROMPTS).read_text()).items():
        for number, example in enumerate(examples.split("\n\nQ: ")[1:]):
            if match := _EXAMPLE.match(example):
                options = "\n".join(f"{letter}. {match[letter]}" for letter in LETTERS)
                yield {
                    "id": f"{subject}/{number}",
                    "prompt": f"{match['question'].strip()}\n{options}\nAnswer:",
                    "choices": list(LETTERS),
                    "answer": LETTERS.index(match["answer"]),
                }
