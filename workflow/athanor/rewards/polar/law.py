"""What learning rate and batch a reward model wants, by its size and its tokens: the law of POLAR (arXiv 2507.05197, section 3).

The paper says that N, D_p and D_rm are all in millions; its own two models then miss their reported settings by 10 and 40 times.
With N in millions and both D in billions the law gives them within 5 %: these are the units here.
"""

from dataclasses import dataclass

MILLION, BILLION = 1e6, 1e9


@dataclass(frozen=True)
class Advice:
    """What the law says: the peak learning rate, and pairs a step."""

    lr: float
    batch_pairs: float


def advice(parameters: float, pretrained_tokens: float, reward_tokens: float) -> Advice:
    """For a backbone of `parameters` that was pretrained on `pretrained_tokens` and learns rewards on `reward_tokens`.

    LR = 0.0002306 N^0.01125 D_p^-0.66587 D_rm^0.33916, BS = 31.9032 N^0.06944 D_rm^0.52997. Raises ValueError where one is not
    above 0.
    """
    for name, value in (("parameters", parameters), ("pretrained_tokens", pretrained_tokens), ("reward_tokens", reward_tokens)):
        if value <= 0:
            raise ValueError(f"{name}={value}: the law is a product of powers; give a number above 0")
    n, d_p, d_rm = parameters / MILLION, pretrained_tokens / BILLION, reward_tokens / BILLION
    return Advice(
        lr=0.0002306 * n**0.01125 * d_p**-0.66587 * d_rm**0.33916,
        batch_pairs=31.9032 * n**0.06944 * d_rm**0.52997,
    )
