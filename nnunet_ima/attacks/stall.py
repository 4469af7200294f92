"""When to give a sample up: its loss has not risen for a number of steps."""

import torch
from torch import Tensor


class Stall:
    """steps: how many steps in a row a sample may take without a rise; None: as many as it likes, at no cost.
    samples: how many there are, on `device`."""

    def __init__(self, steps: int | None, samples: int, device: torch.device) -> None:
        self.steps = steps
        if steps is not None:
            self.highest = torch.full((samples,), -torch.inf, device=device)
            self.without = torch.zeros(samples, dtype=torch.long, device=device)

    def goes_on(self, rows: Tensor, loss: Tensor) -> Tensor | None:
        """Which of the samples `rows` shall take another step, now that their losses are `loss` (rows,), bool; None
        for all. `highest` is where they were before."""
        if self.steps is None:
            return None
        loss = loss.detach().float()
        rises = loss > self.highest[rows]
        self.highest[rows] = torch.where(rises, loss, self.highest[rows])
        self.without[rows] = torch.where(rises, 0, self.without[rows] + 1)
        return self.without[rows] < self.steps
