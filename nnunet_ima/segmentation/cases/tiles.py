"""A network on whole slices or volumes: tiles and Gaussian weights as in nnU-Net's predictor, but with gradients."""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import torch
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window
from torch import Tensor, nn

from nnunet_ima.segmentation.cases.padding import crop, pad


class TiledNetwork(nn.Module):
    """Logits of whole slices (N, C, H, W) or volumes (N, C, Z, H, W) of any size: what is smaller than the patch is
    padded and cropped again.

    Of a slice all tiles are one batch. Of a volume one tile is in memory at a time, with gradients too: each tile is
    computed again for its part of the gradient, one more forward pass.

    nnU-Net's own prediction runs in inference mode, which knows no gradients.
    """

    def __init__(self, network: nn.Module, patch_size: Sequence[int], step: float = 0.5) -> None:
        super().__init__()
        self.network, self.patch_size, self.step = network, tuple(patch_size), step

    def forward(self, x: Tensor) -> Tensor:
        padded = pad(x, self.patch_size)
        if padded.shape[2:] == self.patch_size:
            logits: Tensor = self.network(padded)
        elif len(self.patch_size) == 2:
            logits = self._tiled(padded)
        else:
            logits = _tile_by_tile(self.network, padded, self.corners(padded.shape[2:]), self._gaussian(padded))
        return crop(logits, x.shape[2:])

    def corners(self, shape: Sequence[int]) -> list[tuple[int, ...]]:
        """Where the tiles of an image of this shape begin; no side may be shorter than the patch."""
        return list(product(*compute_steps_for_sliding_window(tuple(shape), self.patch_size, self.step)))

    def _gaussian(self, x: Tensor) -> Tensor:
        weights: Tensor = compute_gaussian(self.patch_size, 1.0 / 8, value_scaling_factor=10, device=x.device)
        return weights.float()

    def _tiled(self, x: Tensor) -> Tensor:
        height, width = self.patch_size
        gaussian, corners = self._gaussian(x), self.corners(x.shape[2:])
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


def _tile_by_tile(
    network: Callable[[Tensor], Tensor], x: Tensor, corners: Sequence[tuple[int, ...]], gaussian: Tensor
) -> Tensor:
    result: Tensor = _TileByTile.apply(x, network, corners, gaussian)  # type: ignore[no-untyped-call]
    return result


class _TileByTile(torch.autograd.Function):
    """Weighted mean of the logits of tiles; backwards, each tile again with its part of the gradient, which goes to
    `x` only: the network is frozen."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, network: Callable[[Tensor], Tensor], corners: Sequence[tuple[int, ...]], gaussian: Tensor
    ) -> Tensor:
        windows = [_window(corner, gaussian.shape) for corner in corners]
        weight = x.new_zeros(x.shape[2:], dtype=torch.float32)
        total: Tensor | None = None
        for window in windows:
            part = network(x[window]).float()
            if total is None:
                total = part.new_zeros(*part.shape[:2], *x.shape[2:])
            total[window] += part * gaussian
            weight[window] += gaussian
        assert total is not None
        ctx.save_for_backward(x, weight, gaussian)
        ctx.network, ctx.windows = network, windows
        ctx.autocast = torch.is_autocast_enabled(x.device.type), torch.get_autocast_dtype(x.device.type)
        return total / weight

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        x, weight, gaussian = ctx.saved_tensors
        weighted, result = gradient / weight, torch.zeros_like(x, dtype=torch.float32)
        enabled, dtype = ctx.autocast
        for window in ctx.windows:
            tile = x[window].detach().requires_grad_()
            with torch.enable_grad(), torch.autocast(x.device.type, dtype, enabled):
                logits = ctx.network(tile).float()
            (part,) = torch.autograd.grad(logits, tile, weighted[window] * gaussian)
            result[window] += part
        return result.to(x.dtype), None, None, None


def _window(corner: Sequence[int], patch_size: Sequence[int]) -> tuple[Any, ...]:
    """Over the last axes, whatever is before them."""
    return ..., *(slice(start, start + side) for start, side in zip(corner, patch_size, strict=True))
