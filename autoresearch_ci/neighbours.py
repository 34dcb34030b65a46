from collections.abc import Sequence

from autoresearch_ci.experiment import Measurement


def cost(alone: Sequence[Measurement], together: Sequence[Measurement]) -> str:
    return f"{len(alone)} {len(together)}"
