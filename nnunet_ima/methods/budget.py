"""A training of a given cost instead of a given number of steps, so that methods can be compared at equal cost."""

from dataclasses import dataclass

from nnunet_ima.errors import UserError
from nnunet_ima.methods.cost import PLAIN_STEP


@dataclass
class Budget:
    """forwards: of the whole training, in forwards of a batch (a plain step is 3), spent evenly over its epochs."""

    forwards: float
    epochs: int
    spent: float = 0.0

    def check(self, label: str, cost: float) -> None:
        """UserError where an epoch could not have a single step of the usual `cost`."""
        least = cost * self.epochs
        if self.forwards < least:
            raise UserError(
                f"budget {self.forwards:g} is less than one training step of {label} ({cost:g} forwards) in each of "
                f"{self.epochs} epochs: give {least:g} or more, or fewer epochs."
            )

    def steps(self, epoch: int, cost: float = PLAIN_STEP) -> int:
        """Training steps of an epoch (from 0) if each costs `cost`; what earlier epochs left or took too much is
        evened out. At least 1."""
        due = self.forwards * (epoch + 1) / self.epochs - self.spent
        return max(1, round(due / cost))

    def spend(self, steps: int, cost: float) -> None:
        self.spent += steps * cost
