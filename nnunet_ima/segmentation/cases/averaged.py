"""What nnU-Net predicts with: the mean over the folds of an ensemble and over the mirrored images, with gradients."""

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class AveragedNetwork(nn.Module):
    """Mean logits of the members, each on the images as they are and mirrored along every combination of the axes.

    nnU-Net's predictor takes the mean of logits, not of probabilities. mirror_axes: nnU-Net's own numbers, 0 for rows
    and 1 for columns.

    An attack holds the activations of one member and one mirrored image at a time: the others are computed again for
    their gradient, which costs one more forward pass each.
    """

    def __init__(self, members: Sequence[nn.Module], mirror_axes: Sequence[int] = ()) -> None:
        super().__init__()
        self.members, self.mirror_axes = nn.ModuleList(members), tuple(mirror_axes)
        axes = [axis + 2 for axis in mirror_axes]
        self.flips = [flip for count in range(len(axes) + 1) for flip in combinations(axes, count)]

    def alone(self) -> list["AveragedNetwork"]:
        """Each member by itself, on the same mirrored images."""
        return [AveragedNetwork([member], self.mirror_axes) for member in self.members]

    def forward(self, x: Tensor) -> Tensor:
        parts = [(member, flip) for member in self.members for flip in self.flips]
        keeps_graph = torch.is_grad_enabled() and x.requires_grad
        total: Tensor | float = 0.0
        for member, flip in parts:
            if keeps_graph:
                part = checkpoint(_mirrored, member, x, flip, use_reentrant=False, preserve_rng_state=False)
            else:
                part = _mirrored(member, x, flip)
            total = total + part.float()
        mean: Tensor = total / len(parts)  # type: ignore[assignment]
        return mean


def _mirrored(network: nn.Module, x: Tensor, flip: tuple[int, ...]) -> Tensor:
    logits: Tensor = network(x.flip(flip)).flip(flip)
    return logits
