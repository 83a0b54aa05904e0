"""A prompt that an evaluation suite asks as well is found, and one that only sounds like it is not."""

from athanor.rl.online.contamination import Suites

QUESTION = "A ball of two kilograms falls from a tower of forty metres; how fast is it when it hits the ground below?"
SHORT = "What is the capital of France?"


def test_prompt_that_quotes_a_question_is_found() -> None:
    suites = Suites([QUESTION, SHORT], 13)
    assert suites.share(f"Think well. {QUESTION.upper()} Answer in m/s.")
    assert suites.share("Tell me: what is the CAPITAL of France!")


def test_other_prompts_are_left() -> None:
    suites = Suites([QUESTION, SHORT, "Yes or no?"], 13)
    assert not suites.share("A ball of two kilograms falls from a tower of forty feet; how long does it fall?")
    assert not suites.share("What is the capital of Spain?")
    assert not suites.share("Is it so, yes or no? Say it."), "three words are no question that could be recognised"


def test_as_many_words_as_are_asked_for() -> None:
    assert Suites([QUESTION], 5).share("It falls from a tower of bricks")
    assert not Suites([QUESTION], 6).share("It falls from a tower of bricks")
