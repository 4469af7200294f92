"""A 2D network on whole slices: tiles and Gaussian weights as in nnU-Net's predictor, but with gradients."""

from collections.abc import Sequence

import torch
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window
from torch import Tensor, nn

from nnunet_ima.segmentation.cases.padding import crop, pad


class TiledNetwork(nn.Module):
    """Logits of whole slices (N, C, H, W) of any size: what is smaller than the patch is padded and cropped again.

    nnU-Net's own prediction runs in inference mode, which knows no gradients.
    """

    def __init__(self, network: nn.Module, patch_size: Sequence[int], step: float = 0.5) -> None:
        super().__init__()
        self.network, self.patch_size, self.step = network, tuple(patch_size), step

    def forward(self, x: Tensor) -> Tensor:
        padded = pad(x, self.patch_size)
        logits = self.network(padded) if padded.shape[2:] == self.patch_size else self._tiled(padded)
        return crop(logits, x.shape[2:])

    def _tiled(self, x: Tensor) -> Tensor:
        height, width = self.patch_size
        rows, columns = compute_steps_for_sliding_window(tuple(x.shape[2:]), self.patch_size, self.step)
        gaussian = compute_gaussian(self.patch_size, 1.0 / 8, value_scaling_factor=10, device=x.device).float()
        corners = [(top, left) for top in rows for left in columns]
        tiles = torch.cat([x[:, :, top : top + height, left : left + width] for top, left in corners])
        parts = self.network(tiles).float().unflatten(0, (len(corners), len(x)))
        total = x.new_zeros(len(x), parts.shape[2], *x.shape[2:])
        weight = x.new_zeros(x.shape[2:])
        for part, (top, left) in zip(parts, corners, strict=True):
            window = (slice(top, top + height), slice(left, left + width))
            # Not in place: each addition is part of the graph the attack differentiates.
            total = total + _placed(part * gaussian, window, total)
            weight[window] += gaussian
        return total / weight


def _placed(part: Tensor, window: tuple[slice, slice], like: Tensor) -> Tensor:
    """`part` at `window` of a zero image of the shape of `like`."""
    (top, bottom), (left, right) = ((w.start, w.stop) for w in window)
    return nn.functional.pad(part, (left, like.shape[3] - right, top, like.shape[2] - bottom))
