"""Who judges an answer: the record, a source's generator, or the registry's verifier in the sandbox."""

from athanor.rl.judging import Judges, Said
from athanor.rl.tasks import science
from tests.rewards.sandbox.walls import needs_walls


def test_record_alone_is_right_where_nothing_else_is_known() -> None:
    with Judges() as judges:
        found = judges.judge(
            [Said(" ethanol ", "ethanol", {}), Said("<think>hm</think>ethanol", "ethanol", {}), Said("", "x", {})]
        )
    assert [verdict.right for verdict in found] == [True, True, False] and judges.broken == 0


@needs_walls
def test_problems_of_the_registry_are_judged_in_the_sandbox_among_others() -> None:
    made = science.generate("motif_count", {}, 1, 2)
    entries = [{"module": science.__name__, "generator": "motif_count", "task": "motif_count", "problem": one} for one in made]
    wrong = str(int(made[1]["answer"]) + 1)
    said = [
        Said(f"<think>\nlet me count\n</think>\n {made[0]['answer']}", made[0]["answer"], entries[0]),
        Said("seven", "seven", {}),
        Said(wrong, made[1]["answer"], entries[1]),
        Said("no number", made[1]["answer"], entries[1]),
    ]
    with Judges() as judges:
        assert [verdict.right for verdict in judges.judge(said)] == [True, True, False, False]
        assert [verdict.right for verdict in judges.judge(said[::-1])] == [False, False, True, True]
