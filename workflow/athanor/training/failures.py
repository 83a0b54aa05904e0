"""How often a node fails: what the recipe supposes, corrected by what this training has seen."""

from collections.abc import Callable
from dataclasses import dataclass

import torch.distributed as dist

from athanor.recipe.schema.training import Checkpoint


@dataclass(frozen=True)
class Failures:
    """Of machines, while so many node-hours were trained."""

    count: int = 0
    node_hours: float = 0.0

    def node_hours_between(self, supposed: float) -> float:
        """Node-hours to a failure, where `supposed` of them count as seen, with one failure.

        The inverse of the expected rate where failures come at random and the rate has the prior Gamma(1, `supposed`), whose
        posterior is Gamma(1 + count, `supposed` + node_hours) (Gelman et al., Bayesian Data Analysis, 3rd ed., section 2.6).
        """
        return (supposed + self.node_hours) / (1 + self.count)


def agreed_node_hours(settings: Checkpoint, seen: Callable[[], Failures]) -> float:
    """Node-hours to a failure, the same on all ranks: rank 0 alone looks, and says what it takes it from.

    Where the recipe says how often to save, nobody looks.
    """
    supposed = settings.node_hours_between_failures
    if settings.every_tokens:
        return supposed
    agreed = [supposed]
    if dist.get_rank() == 0:
        failures = seen()
        agreed = [failures.node_hours_between(supposed)]
        print(
            f"saves as for a failure every {agreed[0]:.6g} node-hours: {failures.count} of machines in "
            f"{failures.node_hours:.4g} node-hours trained so far, and "
            f"the recipe's checkpoint.node_hours_between_failures={supposed:g} counted as one more",
            flush=True,
        )
    dist.broadcast_object_list(agreed)
    return agreed[0]
