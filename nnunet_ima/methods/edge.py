"""Edge: IMA whose noise also takes the place of the clean samples. Our own, no paper's."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nnunet_ima.attacks import ball
from nnunet_ima.methods.ima import IMA
from nnunet_ima.methods.method import Batch, mixed, number, to_device


@dataclass(kw_only=True)
class Edge(IMA):
    """L = (1 - beta) l(x) + beta l(x'), beta 1 by default; x' lies at the edge of the sample's margin, in the direction
    in which IMA's attack looked for the boundary, found or not. A sample that is wrong stays where it is.

    IMA trains on noise only where the boundary was found, and there beside the clean sample: what held, most of a
    batch while margins are small, teaches nothing about noise. Margins grow and shrink as IMA's, at IMA's cost.
    """

    word: ClassVar[str] = "edge"
    label: ClassVar[str] = "Edge"

    beta: float = number(1.0, 0, 1)

    def loss(self, batch: Batch) -> Tensor:
        # As they are before the visit is noted.
        margin, _ = self.margins(batch)
        found = self.boundary(batch)
        clean = batch.x.detach()
        away = torch.where(ball.broadcast(found.crossed, clean), found.x, found.last_correct) - clean
        # A sample without a margin has 0 there.
        edge = torch.where(found.correct, to_device(margin.to(clean.dtype), batch), 0.0)
        stretched = away * ball.broadcast(edge / ball.size(away, self.norm).clamp_min(1e-6), clean)
        noisy = batch.forward(ball.step_inside(clean, stretched, edge, self.norm, self.bounds))
        return mixed(batch.clean, noisy, self.beta)
