"""An average of the weights over the steps (Izmailov et al., UAI 2018; Gowal et al., arXiv:2010.03593)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from nnunet_ima.errors import UserError


def check_ema(ema: float) -> None:
    """UserError unless ema is 0 (off) or a decay below 1."""
    if isinstance(ema, bool) or not isinstance(ema, int | float) or not 0 <= ema < 1:
        raise UserError(f"ema must be a number from 0 (off) to below 1, like 0.999, got {ema!r}.")


class Average:
    """average <- decay * average + (1 - decay) * weights after each step of the optimiser; in the first steps the decay
    is (1 + n) / (10 + n) at most, so that the weights a training began with are soon forgotten.

    The network trains on its own, live weights. `show` puts the average into it, for whatever reads the network,
    `hide` the live ones again; neither does anything twice.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay, self.steps, self.shown = network, decay, 0, False
        self.other = self._copy()

    def _weights(self) -> list[Tensor]:
        """Parameters and buffers that are no whole numbers; a list without names, which a compiled network changes."""
        every = [*self.network.parameters(), *self.network.buffers()]
        return [tensor.detach() for tensor in every if tensor.is_floating_point()]

    def _copy(self) -> list[Tensor]:
        return [tensor.clone() for tensor in self._weights()]

    @torch.no_grad()
    def update(self) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        move = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        move(self.other, self._weights(), self.steps)

    def show(self) -> None:
        if not self.shown:
            self._swap()

    def hide(self) -> None:
        if self.shown:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        own = self._weights()
        kept = self._copy()
        for tensor, other in zip(own, self.other, strict=True):
            tensor.copy_(other)
        self.other, self.shown = kept, not self.shown

    def state(self) -> dict[str, Any]:
        """For a checkpoint that holds the network as it is: the weights it does not hold."""
        return {"steps": self.steps, "shown": self.shown, "other": [tensor.cpu() for tensor in self.other]}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue; the network has the weights of its checkpoint already. UserError for another network's."""
        shapes = [tuple(tensor.shape) for tensor in self.other]
        if [tuple(tensor.shape) for tensor in state["other"]] != shapes:
            raise UserError("The averaged weights in the checkpoint are of another network: continue with its plans.")
        self.steps, self.shown = state["steps"], state["shown"]
        self.other = [
            theirs.to(own.device, own.dtype).clone() for theirs, own in zip(state["other"], self.other, strict=True)
        ]
