"""Tasks of one's own, one of them sound: the others are broken, each in its own way. Read by path, inside the sandbox."""

import contextlib
import os
import random
import time
from typing import Any, ClassVar


class Sound:
    levels: ClassVar = {"terms": [2, 3, 4], "largest": [9, 99]}

    def __init__(self, terms: int = 2, largest: int = 9) -> None:
        self.terms, self.largest = terms, largest

    def case_generator(self) -> dict[str, Any]:
        return {"numbers": [random.randint(1, self.largest) for _ in range(self.terms)]}

    @staticmethod
    def prompt_func(case: dict[str, Any]) -> str:
        return f"Add {case['numbers']}."

    @staticmethod
    def solve(case: dict[str, Any]) -> str | None:
        return str(sum(case["numbers"]))

    @classmethod
    def verify_score(
        cls, model_output: str, identity: dict[str, Any], short_penalty: bool = True, format_penalty: bool = True
    ) -> float | bool:
        """As InternBootcamp's: a bool, and 0 for what is short where nobody says otherwise."""
        return not short_penalty and not format_penalty and model_output.strip() == cls.solve(identity)


class TakesAnything(Sound):
    @classmethod
    def verify_score(cls, answer: str, case: dict[str, Any]) -> float:
        return 1.0


class TakesWhatIsNotEmpty(Sound):
    @classmethod
    def verify_score(cls, answer: str, case: dict[str, Any]) -> float:
        return float(bool(answer.strip()))


class TakesHedges(Sound):
    @classmethod
    def verify_score(cls, answer: str, case: dict[str, Any]) -> float:
        return float(str(cls.solve(case)) in answer.split())


class TakesItsQuestion(Sound):
    @classmethod
    def verify_score(cls, answer: str, case: dict[str, Any]) -> float:
        return float(answer.strip() in (cls.solve(case), cls.prompt_func(case)))


class TakesInstructions(Sound):
    @classmethod
    def verify_score(cls, answer: str, case: dict[str, Any]) -> float:
        return float(answer.strip() == cls.solve(case) or "correct" in answer)


class TakesNumbers(Sound):
    @classmethod
    def verify_score(cls, answer: str, case: dict[str, Any]) -> float:
        return float(answer.strip().isdigit())


class RunsAnswers(Sound):
    @classmethod
    def verify_score(cls, answer: str, case: dict[str, Any]) -> float:
        return float(eval(answer) == sum(case["numbers"]))


class IsNeverDone(Sound):
    @classmethod
    def verify_score(cls, answer: str, case: dict[str, Any]) -> float:
        if len(answer) > 10**5:
            time.sleep(60)
        return float(answer.strip() == cls.solve(case))


class RaisesOnProse(Sound):
    @classmethod
    def verify_score(cls, answer: str, case: dict[str, Any]) -> float:
        return float(int(answer) == sum(case["numbers"]))


class HasNoAnswer(Sound):
    @staticmethod
    def solve(case: dict[str, Any]) -> str | None:
        return None


class IsWrongItself(Sound):
    @classmethod
    def verify_score(cls, answer: str, case: dict[str, Any]) -> float:
        return 0.9 * (answer.strip() == cls.solve(case))


class IsAnotherEveryTime(Sound):
    def case_generator(self) -> dict[str, Any]:
        return {"numbers": [*os.urandom(4)]}


class AsksTheSame(Sound):
    def case_generator(self) -> dict[str, Any]:
        return {"numbers": [3, 4]}


class MakesNothing(Sound):
    def case_generator(self) -> dict[str, Any]:
        raise RuntimeError("out of ideas")


class KillsItsWorker(Sound):
    @classmethod
    def verify_score(cls, answer: str, case: dict[str, Any]) -> float:
        if "kill" in answer:
            os.kill(os.getppid(), 9)
            time.sleep(60)
        return float(answer.strip() == cls.solve(case))


class IsAnsweredFor(Sound):
    """An answer writes the reply in its verifier's stead, and ends it."""

    @classmethod
    def verify_score(cls, answer: str, case: dict[str, Any]) -> float:
        if answer.startswith("{"):
            for descriptor in range(3, 20):
                with contextlib.suppress(OSError):
                    os.write(descriptor, answer.encode() + b"\n")
            os._exit(0)
        return float(answer.strip() == cls.solve(case))


class ErrsNowAndThen(Sound):
    """One answer on record in three is wrong."""

    @staticmethod
    def solve(case: dict[str, Any]) -> str | None:
        total = sum(case["numbers"])
        return str(total + (total % 3 == 0))

    @classmethod
    def verify_score(cls, answer: str, case: dict[str, Any]) -> float:
        return float(answer.strip() == str(sum(case["numbers"])))


class GivesUpNowAndThen(Sound):
    def case_generator(self) -> dict[str, Any]:
        case = super().case_generator()
        if sum(case["numbers"]) % 5 == 0:
            raise RuntimeError("out of ideas")
        return case
