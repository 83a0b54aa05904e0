"""Answers that go on over rounds: what a round asks follows from the one before, and an answer is its parts in a row."""

from dataclasses import replace

from athanor.recipe.schema.choices import Route
from athanor.rl.online.carrying import Slot, gone_on, slots_of
from athanor.rl.online.prompts import Pooled
from athanor.rl.online.rounds import OPEN, Answered, Made, open_slots, settle_accounts
from athanor.rl.rollouts.sampling import LOOP_TOKENS, Finish, Sample

PROMPTS = [Pooled(f"sums/{n}", "sums", "sums", Route.VERIFIER, [{"role": "user", "content": f"{n}?"}], [], "") for n in range(20)]
POOL = {prompt.id: prompt for prompt in PROMPTS}


def take(first: int, count: int) -> list[Pooled]:
    return PROMPTS[first : first + count]


def answer(slot: int, number: int, finish: str, advantage: float | None = None) -> Answered:
    prompt = PROMPTS[slot]
    who = (prompt.id, prompt.task, prompt.family, prompt.route.value)
    return Answered(slot, number, *who, (5,) * 4, (-0.5,) * 4, finish, "5555", 0.0, None, "", advantage, spans=((4, "a"),))


def made(answers: list[Answered], asked: int) -> Made:
    return Made(0, "a", 0, "", tuple(answers), asked=asked)


def test_groups_that_go_on_come_first_and_as_many_fewer_prompts_are_new() -> None:
    assert slots_of(None, 4, POOL, take) == [Slot(prompt) for prompt in PROMPTS[:4]]
    finish = {0: ("stop", "stop"), 1: ("stop", OPEN), 2: ("length", "stop"), 3: (OPEN, OPEN)}
    before = made([answer(slot, n, how) for slot, both in finish.items() for n, how in enumerate(both)], asked=4)
    found = slots_of(before, 4, POOL, take)
    assert [slot.prompt.id for slot in found] == ["sums/1", "sums/3", "sums/4", "sums/5"]
    assert [[a.id for a in slot.said] for slot in found] == [["0.0", "0.1"], ["1.0", "1.1"], [], []]
    assert found[0].said[0] == replace(before.answers[2], slot=0), "an ended answer waits as it is"


def test_answer_is_its_parts_in_a_row_until_it_ends_loops_or_is_long_enough() -> None:
    def text(tokens: object) -> str:
        return "".join(map(str, tokens))  # type: ignore[call-overload]

    def further(finish: Finish, tokens: tuple[int, ...], most: int = 99) -> Answered:
        sample = Sample("x", 0, tokens, (-1.0,) * len(tokens), finish)
        return gone_on(answer(0, 0, OPEN), sample, "b", text, most)

    whole = further(Finish.STOP, (6, 7))
    assert (whole.tokens, whole.log_probs, whole.text) == ((5, 5, 5, 5, 6, 7), (-0.5,) * 4 + (-1.0,) * 2, "555567")
    assert whole.finish == "stop" and whole.spans == ((4, "a"), (2, "b"))
    assert further(Finish.LENGTH, (6, 7)).finish == OPEN
    assert further(Finish.LENGTH, (6, 7), most=6).finish == "length"
    assert further(Finish.LENGTH, (5,) * LOOP_TOKENS).finish == "loop", "over the seam, too"


def test_accounts_count_an_answer_in_the_round_in_which_its_group_ended() -> None:
    first = made([answer(0, 0, "stop"), answer(0, 1, OPEN), answer(1, 0, "stop", 1.0), answer(1, 1, "stop", -1.0)], asked=2)
    second = replace(made([answer(0, 0, "stop", 1.0), answer(0, 1, "stop", -1.0), answer(1, 0, OPEN)], asked=3), number=1)
    assert open_slots(first.answers) == {0}
    ledger = [
        {"step": 1, "round": 0, "answers": ["1.0", "1.1"], "left_out": False},
        {"step": 2, "round": 1, "answers": ["0.0", "0.1"], "left_out": False},
    ]
    assert settle_accounts(ledger, [first, second]) == {
        "rounds": 2,
        "answers": 4,
        "learnt_from": 4,
        "steps_left_out": 0,
        "groups_open": 1,
    }
