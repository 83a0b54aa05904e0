"""Section `sft.labels`: what it can get wrong, and which artifacts it makes and leaves as they are."""

from typing import Any

import pytest

from athanor.recipe.lifecycle import Lifecycle
from tests.recipe.projects import Project, base, put
from tests.recipe.schema_walk import problems_with, with_entries
from tests.recipe.test_finetuning_problems import GENERATED

TASK = {"source": "prose", "turns": [{"prompts": ["{path}?"], "response": "{text}"}], "taxonomy": ["a", "b", "c"]}
TWO = {"sft.tasks.tell": TASK, "sft.mixture": {"ask": 1, "tell": 1}}

PROBLEMS: dict[str, tuple[dict[str, Any], str]] = {
    "no such mixture": (
        {"sft.labels.by": "both"},
        "sft.labels.by='both': no such mixture: of sft.mixture sft.search tries ask, mixture",
    ),
    "no search": (
        {"sft.search.token_budget": 0},
        "sft.labels.by='ask': nothing is tried, so that no model can label; give sft.search.token_budget",
    ),
    "levels of no model": (
        {"sft.labels.by": ""},
        "sft.labels.by: names no model that labels; give a mixture of sft.search, or leave the section out",
    ),
    "unknown task": (
        {"sft.labels.tasks": ["ask", "tell"]},
        "sft.labels.tasks[1]='tell': no such task in sft.mixture, which has ask",
    ),
    "tasks without a verifier": (
        {"sft.labels.tasks": []},
        "sft.labels.tasks: is empty, and no task of sft.mixture has problems that judge their answers; name those with one "
        "right answer",
    ),
    "whole conversations": (
        {**TWO, "sft.tasks.tell": {**TASK, "turns": [], "messages": "said"}, "sft.labels.tasks": ["tell"]},
        "sft.labels.tasks[0]='tell': nothing can check its answers: a conversation of its own may answer by a call; leave it out",
    ),
    "functions in words": (
        {"sft.tasks.ask.extract": "functions"},
        "sft.labels.tasks[0]='ask': nothing can check its answers: a function may be described in other words; leave it out",
    ),
    "model that has not learnt the task": (
        {**TWO, "sft.labels.tasks": ["ask", "tell"]},
        "sft.labels.by='ask': has not learnt tell; use mixture",
    ),
    "bounds out of order": (
        {"sft.labels.hard_up_to": 0.8},
        "sft.labels.hard_up_to=0.8: a question would be hard and easy at once, with sft.labels.easy_from=0.75; lower it",
    ),
    "too few answers": (
        {"sft.labels.samples": 3},
        "sft.labels.samples=3: one right answer of so many is more than sft.labels.hard_up_to=0.25, so that none is hard; "
        "use at least 4",
    ),
    "no room for a question": (
        {"sft.labels.max_new_tokens": 512},
        "sft.labels.max_new_tokens=512: leaves no room for a question in model.max_sequence_length=512; lower it",
    ),
    "unknown level to drop": (
        {"sft.labels.drop": ["simple"]},
        "sft.labels.drop[0]='simple': ",
    ),
    "every level dropped": (
        {"sft.labels.drop": ["easy", "medium", "hard", "unsolved"], "sft.labels.repeats": {}},
        "sft.labels.drop=['easy', 'medium', 'hard', 'unsolved']: is every level; leave one to learn from",
    ),
    "unknown level": (
        {"sft.labels.repeats": {"harder": 2}},
        "sft.labels.repeats.harder=2: no such level; there are unsolved, hard, medium, easy",
    ),
    "once anyway": (
        {"sft.labels.repeats": {"hard": 1}},
        "sft.labels.repeats.hard=1: a question is learnt once anyway; use 2 or more, or sft.labels.drop to leave it out",
    ),
    "dropped and repeated": (
        {"sft.labels.drop": ["hard"]},
        "sft.labels.repeats.hard=2: what sft.labels.drop leaves out is not repeated; choose one of both",
    ),
}


@pytest.mark.parametrize("case", PROBLEMS)
def test_problem_names_key_value_and_way_out(project: Project, case: str) -> None:
    changes, expected = PROBLEMS[case]
    assert any(problem.startswith(expected) for problem in problems_with(project, changes)), problems_with(project, changes)


def test_all_problems_come_in_one_report(project: Project) -> None:
    changes = {"sft.labels.by": "both", "sft.labels.hard_up_to": 0.9, "sft.labels.repeats": {"hard": 1, "harder": 2}}
    found = {problem.partition("=")[0] for problem in problems_with(project, changes)}
    assert found == {"sft.labels.by", "sft.labels.hard_up_to", "sft.labels.repeats.hard", "sft.labels.repeats.harder"}


def test_section_without_a_mistake_has_no_problem(project: Project) -> None:
    assert not [problem for problem in problems_with(project, {}) if problem.startswith("sft.labels")]


def lifecycle(project: Project, **labels: Any) -> Lifecycle:
    data = put(with_entries(base()), "sft.labels", labels)
    project.write("base", put(data, "sft.shuffled_control", True))
    return Lifecycle(project.load(), project.root)


def test_labels_come_of_a_model_that_learnt_before_and_fine_tuning_learns_what_they_leave(project: Project) -> None:
    graph = lifecycle(project, by="ask", tasks=["ask"], repeats={"hard": 2})
    assert graph["labels/ask"].upstreams["model"] is graph["export/sft-search-ask"]
    assert graph["sft/search-ask"].upstreams["ask"] is graph["pack/ask"], "what labels is not learnt from labels"
    for name, pack in {"sft/model": "pack/ask-curated", "sft/shuffled": "pack/ask-shuffled"}.items():
        assert graph[name].upstreams["ask"] is graph[pack]
        assert graph[name].upstreams["held_out-ask"] is graph["pack/ask"]
        assert graph[pack].upstreams["conversations"] is graph["curation/ask"]
    assert graph["answers/sft"].upstreams["ask"] is graph["conversations/ask"]
    assert graph["rollouts/ask-sft"].upstreams["conversations"] is graph["conversations/ask"]


def test_labels_that_change_nothing_leave_fine_tuning_as_it_was(project: Project) -> None:
    without, labelled = lifecycle(project), lifecycle(project, by="ask", tasks=["ask"])
    assert labelled["curation/ask"].stage == "curation"
    before, after = ({a.name: a.path for a in graph if a.stage != "report"} for graph in (without, labelled))
    assert before.items() <= after.items()
    assert after.keys() - before.keys() == {"labels/ask", "curation/ask", "export/sft-search-ask"}
    assert without["report/campaign"].path != labelled["report/campaign"].path


def test_generated_problems_are_labelled_unasked(project: Project) -> None:
    data = put(with_entries(base()), "data.sources.sums", GENERATED | {"entity": "{question}"})
    data["sft"]["tasks"]["sums"] = {**TASK, "source": "sums"}
    data["sft"] |= {"mixture": {"ask": 1, "sums": 1}, "labels": {"by": "sums"}}
    project.write("base", data)
    graph = Lifecycle(project.load(), project.root)
    assert [artifact.instance for artifact in graph.of("labels")] == ["sums"]
    assert "pack/sums-curated" not in graph, "nothing is dropped or repeated"
