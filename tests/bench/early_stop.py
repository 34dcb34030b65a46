"""`python -m tests.bench.early_stop`: how often the curve rule stops a run that would have won, and what it saves.

Prints a table; asserts nothing. A rival and a candidate are drawn, both as training curves of the shapes that fixed-time training
has: a power law or an exponential decay, a learning rate that is warmed up and, in most, cooled down at the end (which lowers the
loss once more), readings with noise, 5 to 120 of them. The rule sees a candidate's readings one after another. "Would have won":
its last reading is better than the rival's last one.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from autoresearch_ci.early_stop import Curve, hopeless
from autoresearch_ci.experiment import Direction
from tests.bench.intervals import wilson

BUDGET_S: Final = 300.0


@dataclass(frozen=True)
class Training:
    """A loss over the share of the budget that is spent. Losses are in units of what the rival gains in all.

    `floor`: what endless training would reach. `drop`: what is above it at the start. `rate`: exponent of the power law, or
    time constants of the exponential. `speed`: steps per second, the rival's is 1. `idle`: share of the budget before the first
    step. `warmup`: share in which the learning rate grows. `cooldown`: share at the end in which it falls; until then
    `unsettled` is added to the loss. `diverges`: share after which the loss rises, 1 for never.
    """

    floor: float
    drop: float
    rate: float
    power: bool
    speed: float = 1.0
    idle: float = 0.0
    warmup: float = 0.05
    cooldown: float = 0.0
    unsettled: float = 0.0
    diverges: float = 1.0
    rise: float = 0.0

    def loss(self, spent: float) -> float:
        trained = max(0.0, spent - self.idle)
        warm = trained - self.warmup / 2 if trained > self.warmup else trained**2 / max(2 * self.warmup, 1e-9)
        steps = self.speed * warm
        decay = (1 + 100 * steps) ** -self.rate if self.power else math.exp(-self.rate * steps)
        heat = min(1.0, (1 - spent) / self.cooldown) if self.cooldown else 0.0
        started = min(1.0, trained / 0.1)  # a loss that has not fallen yet is not unsettled either
        late = max(0.0, spent - self.diverges)
        return self.floor + self.drop * decay + self.unsettled * heat * started + self.rise * (1 - math.exp(-8 * late))

    def curve(self, draw: random.Random, readings: int, noise: float) -> Curve:
        """What is read: `readings` times at equal distances, each with normal noise, and a spike now and then."""
        points = []
        for index in range(readings):
            spent = (index + 1) / readings
            spike = draw.expovariate(5) if draw.random() < 0.01 and index + 1 < readings else 0.0
            points.append((BUDGET_S * spent, self.loss(spent) + draw.gauss(0, noise) + spike))
        return tuple(points)


def rival(draw: random.Random) -> Training:
    power = draw.random() < 0.7
    cooldown = draw.choice((0.0, 0.2, 0.5, 1.0))
    return Training(
        floor=2.0,
        drop=1.0,
        rate=draw.uniform(0.2, 0.7) if power else draw.uniform(3, 9),
        power=power,
        warmup=draw.choice((0.0, 0.02, 0.05)),
        cooldown=cooldown,
        unsettled=draw.uniform(0.02, 0.15) if cooldown else 0.0,
    )


def nothing(draw: random.Random, of: Training) -> Training:
    return of


def a_little(draw: random.Random, of: Training) -> Training:
    """What most changes are: a few hundredths better or worse, in floor and speed."""
    return replace(of, floor=of.floor + draw.gauss(0, 0.02), speed=of.speed * draw.uniform(0.9, 1.1))


def worse(draw: random.Random, of: Training) -> Training:
    return replace(of, floor=of.floor + draw.uniform(0.05, 0.5))


def slower(draw: random.Random, of: Training) -> Training:
    """Too few steps for the time: a model that is too large, or a learning rate that is too small."""
    return replace(of, speed=of.speed * draw.uniform(0.1, 0.7))


def better(draw: random.Random, of: Training) -> Training:
    return replace(of, floor=of.floor - draw.uniform(0.02, 0.2), speed=of.speed * draw.uniform(1.0, 1.5))


def crossing(draw: random.Random, of: Training) -> Training:
    """A larger model: fewer steps in the time, and a lower floor, so that it is behind first and ahead at the end."""
    return replace(of, speed=of.speed * draw.uniform(0.25, 0.9), floor=of.floor - draw.uniform(0.02, 0.4))


def longer_warmup(draw: random.Random, of: Training) -> Training:
    return replace(of, warmup=draw.uniform(0.1, 0.4), floor=of.floor - draw.uniform(0.0, 0.15))


def later_cooldown(draw: random.Random, of: Training) -> Training:
    """A higher learning rate for longer: visibly behind until the learning rate falls, at the very end."""
    return replace(
        of,
        cooldown=draw.uniform(0.1, 0.4),
        unsettled=of.unsettled + draw.uniform(0.0, 0.15),
        floor=of.floor - draw.uniform(0.0, 0.1),
    )


def compiled(draw: random.Random, of: Training) -> Training:
    """Starts late, because it compiles, and is faster then."""
    return replace(of, idle=draw.uniform(0.05, 0.25), speed=of.speed * draw.uniform(1.1, 2.0))


def diverging(draw: random.Random, of: Training) -> Training:
    return replace(of, diverges=draw.uniform(0.02, 0.8), rise=draw.uniform(0.1, 2.0))


KINDS: Final[dict[Callable[[random.Random, Training], Training], int]] = {
    nothing: 2,
    a_little: 4,
    worse: 3,
    slower: 3,
    better: 2,
    crossing: 2,
    longer_warmup: 1,
    later_cooldown: 1,
    compiled: 1,
    diverging: 2,
}  # how often each is drawn


@dataclass(frozen=True)
class Outcome:
    """`spent`: share of the run's time that it was given."""

    kind: str
    wins: bool
    spent: float

    @property
    def stopped(self) -> bool:
        return self.spent < 1


def simulate(seed: int) -> Outcome:
    draw = random.Random(seed)
    of = rival(draw)
    change = draw.choices(list(KINDS), list(KINDS.values()))[0]
    noise = of.loss(0.0) - of.loss(1.0)
    noise *= draw.choice((0.001, 0.005, 0.02))
    readings = draw.choice((5, 10, 20, 40, 120))
    incumbent = of.curve(draw, readings, noise)
    curve = change(draw, of).curve(draw, max(4, round(readings * draw.uniform(0.7, 1.3))), noise)
    wins = Direction.MINIMIZE.better(curve[-1][1], incumbent[-1][1])
    for length in range(1, len(curve) + 1):
        if hopeless(curve[:length], incumbent, Direction.MINIMIZE):
            return Outcome(change.__name__, wins, curve[length - 1][0] / BUDGET_S)
    return Outcome(change.__name__, wins, 1.0)


def row(name: str, outcomes: list[Outcome]) -> str:
    winners = [o for o in outcomes if o.wins]
    losers = [o for o in outcomes if not o.wins]
    cells = (
        name.replace("_", " "),
        f"{wilson(sum(o.stopped for o in winners), len(winners), 1)} of {len(winners)}",
        f"{wilson(sum(o.stopped for o in losers), len(losers), 1)} of {len(losers)}",
        f"{1 - sum(o.spent for o in outcomes) / len(outcomes):.1%}",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20_000, help="simulated runs")
    outcomes = [simulate(seed) for seed in range(parser.parse_args().runs)]
    print("| candidate | winners stopped (the rule's errors) | losers stopped | time saved |\n|---|---|---|---|")
    for kind in KINDS:
        print(row(kind.__name__, [o for o in outcomes if o.kind == kind.__name__]))
    print(row("**all**", outcomes))


if __name__ == "__main__":
    main()
