"""A routing policy of your own: leave out what the model knows already, and split the rest as PRISM does.

It reads what `concerto probe` measured and writes what a run takes:

    concerto probe --model MODEL --corpus demonstrations.parquet --out scores.parquet
    python -m examples.own_router_policy scores.parquet routes.parquet
    concerto train ... --set router.policy=median_split --set router.routes=routes.parquet
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass, replace

import pyarrow.parquet as pq

from router import tables
from router.arbitration import Arbiter, Decision, QuantileSplit
from router.scores import Candidates, Concentration
from trajectories.errors import UserError
from trajectories.types import Route

LEAVE_OUT = Decision(Route.DROP, rl_weight=0.0, ce_weight=0.0)


@dataclass(frozen=True, slots=True)
class WithoutKnown:
    """Drops trajectories on which the loss is below `known`; another policy decides on all others."""

    known: float
    others: Arbiter = QuantileSplit(Concentration())  # noqa: RUF009 (frozen)

    def decide(self, candidates: Candidates) -> list[Decision]:
        if candidates.losses is None or candidates.norms is None:
            raise UserError("this policy needs losses and gradient norms; run the probe first")
        new = [row for row, loss in enumerate(candidates.losses.tolist()) if loss >= self.known]
        chosen = replace(
            candidates,
            ids=tuple(candidates.ids[row] for row in new),
            environments=tuple(candidates.environments[row] for row in new),
            norms=candidates.norms[new],
            losses=candidates.losses[new],
        )
        decisions = [LEAVE_OUT] * len(candidates.ids)
        for row, decision in zip(new, self.others.decide(chosen), strict=True):
            decisions[row] = decision
        return decisions


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scores")
    parser.add_argument("routes")
    parser.add_argument("--known", type=float, default=0.05, help="mean loss of a token below which nothing is new")
    options = parser.parse_args(arguments)
    scores = pq.read_table(options.scores)
    candidates = tables.candidates(scores, [""] * scores.num_rows)
    decisions = WithoutKnown(options.known).decide(candidates)
    pq.write_table(tables.routes(candidates.ids, decisions), options.routes)
    print(dict(Counter(str(decision.route) for decision in decisions)))


if __name__ == "__main__":
    main()
