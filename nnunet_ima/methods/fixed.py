"""What the methods with one noise level for all samples share."""

from dataclasses import dataclass

from nnunet_ima.attacks.walk import Walk, walk
from nnunet_ima.methods.method import Batch, Method, Pass, Run, Tally, check_level, number, to_host


@dataclass(kw_only=True)
class FixedLevel(Method):
    """noise: the noise level; UserError at the beginning of a training without one."""

    noise: float | None = number(None)

    @property
    def is_off(self) -> bool:
        return self.noise == 0

    @property
    def level(self) -> float:
        return check_level(self.label, self.noise)

    def begin(self, run: Run) -> None:
        super().begin(run)
        check_level(self.label, self.noise)

    def noisy(self, batch: Batch) -> Pass:
        """The training pass over the worst points within the level."""
        return batch.forward(self.pgd(batch, self.level))

    def walk(self, batch: Batch, patience: int | None = None) -> Walk:
        """PGD that stops `patience` steps after a sample has become wrong (None: it takes all); counted."""

        def attack() -> Walk:
            with self.attacked(batch) as model:
                breakable, told = self.can_break(batch), self.climbing(batch.objective)
                return walk(model, batch.x, batch.y, self.level, patience=patience, breakable=breakable, **told)

        found = self.search(attack)
        (held,) = to_host(found.held)
        right = held > 0
        taken = right.sum() * self.attack_steps if patience is None else held.sum()
        crossed = (right & (held < self.attack_steps)).sum()
        self.tally.merge(Tally(len(batch.ids), len(batch.ids), int(right.sum()), int(crossed), int(taken)))
        return found
