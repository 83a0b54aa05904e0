"""Which prompts a round asks: by weight, by generator in turn, the easy ones first, and the same in every attempt."""

from collections import Counter

from athanor.data.permutation import permute, stream_key
from athanor.recipe.schema.choices import Route
from athanor.rl.online.prompts import Curriculum, Pooled


def prompt(task: str, family: str, number: int, rate: float | None = None) -> Pooled:
    asked = [{"role": "user", "content": f"{family} {number}?"}]
    return Pooled(f"{task}/{family}#{number}", task, family, Route.VERIFIER, asked, [], str(number), {}, rate)


def order(draw: int, size: int, family: str) -> int:
    epoch, index = divmod(draw, size)
    return permute(index, size, stream_key(1, family, epoch))


POOL = [prompt("sums", "sums", n, n / 40) for n in range(40)]
POOL += [prompt("problems", family, n, 0.5) for family, count in (("gcd", 30), ("lcm", 3)) for n in range(count)]


def curriculum(share: float = 0.0, slots: int = 400) -> Curriculum:
    return Curriculum(POOL, {"sums": 3, "problems": 1}, share, slots, order)


def test_tasks_come_by_weight_and_generators_in_turn() -> None:
    asked = [one for number in range(10) for one in curriculum().take(8 * number, 8)]
    assert Counter(one.task for one in asked) == {"sums": 60, "problems": 20}
    assert Counter(one.family for one in asked if one.task == "problems") == {"gcd": 10, "lcm": 10}
    first = curriculum().take(0, 8)
    assert Counter(one.task for one in first) == {"sums": 6, "problems": 2}, "in every round, not over all"


def test_every_prompt_of_a_family_is_asked_before_any_again() -> None:
    asked = [one.id for one in (p for n in range(20) for p in curriculum().take(8 * n, 8)) if one.task == "sums"]
    assert len(set(asked[:40])) == 40 and set(asked[40:80]) == set(asked[:40])


def test_rounds_do_not_depend_on_which_were_asked_before() -> None:
    whole = curriculum()
    earlier = [whole.take(8 * number, 8) for number in range(6)]
    assert curriculum().take(40, 8) == earlier[5] and whole.take(0, 8) == earlier[0]


def test_harder_prompts_come_in_with_time() -> None:
    def rates(number: int) -> list[float]:
        return [one.pass_rate or 0.0 for one in asking.take(8 * number, 8) if one.task == "sums"]

    asking = curriculum(share=0.5)
    assert min(rates(0)) >= 0.7, "a quarter of them, the easiest"
    assert min(rate for number in range(25, 50) for rate in rates(number)) < 0.1, "all, behind half of the budget"


def test_pooled_prompt_is_read_back_as_it_was_written() -> None:
    assert Pooled.of(POOL[3].row()) == POOL[3]
