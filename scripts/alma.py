"""ALMA prox (Rony et al., CVPR 2023) of adv-lib beside our `smallest`: the least L-infinity noise that breaks slices.

`scripts/compare_attacks.py --alma` prints it. ALMA prox looks for the least noise that turns a share of the pixels.
Here a slice fails at a Dice of 60 %, so what it finds is pulled along its line onto that boundary.
"""

from collections.abc import Callable

import numpy as np
import torch
from optimality import Counted
from torch import Tensor, nn

from nnunet_ima.attacks import ball, smallest
from nnunet_ima.attacks.smallest import onto_boundary
from nnunet_ima.evaluation.evaluate import Subject
from nnunet_ima.evaluation.under_noise import stacked
from nnunet_ima.segmentation.cases.slices import batches

Search = Callable[[Tensor, Tensor, Counted], Tensor]


def compare_alma(subject: Subject, largest: float, steps: int) -> None:
    """Print how far the failing point is that each finds within `largest`, with `steps` steps of ALMA prox."""
    from adv_lib.attacks.segmentation import alma_prox

    objective = subject.target.objective()

    def ours(x: Tensor, y: Tensor, model: Counted) -> Tensor:
        # Up to 50 steps go into finding where to start.
        return smallest(model, x, y, largest, objective=objective, norm="linf", steps=max(1, steps - 50))

    def of_pixels(share: float, foreground: bool) -> Search:
        def search(x: Tensor, y: Tensor, model: Counted) -> Tensor:
            labels = y[:, 0].clamp_min(0).long()
            counts = y[:, 0] > 0 if foreground else y[:, 0] >= 0
            # It wants images in [0, 1]; with room on both sides clipping never matters.
            low, width = float(x.min()) - largest, float(x.max() - x.min()) + 2 * largest
            mapped, told = nn.Sequential(_Affine(low, width), model), {"adv_threshold": share, "num_steps": steps}
            # One by one: slices of which different numbers of pixels may stay right do not go together.
            found = [
                alma_prox(
                    mapped, (x[row : row + 1] - low) / width, labels[row : row + 1], counts[row : row + 1], **told
                )
                for row in range(len(x))
            ]
            return onto_boundary(model, x, y, low + width * torch.cat(found), largest, objective, "linf")

        return search

    searches = {
        "smallest": ours,
        "ALMA prox, 99 % of all pixels": of_pixels(0.99, foreground=False),
        "ALMA prox, half of the structures' pixels": of_pixels(0.5, foreground=True),
    }
    found, paid = {}, {}
    for name, search in searches.items():
        found[name], paid[name] = _norms(subject, search)
    print(f"{len(subject.slices)} slices, L-infinity noise up to {largest:g}, {steps} steps")
    print("| | forwards, gradients | failing slices | 25 % | 50 % | 75 % | nearer than `smallest` |")
    print("|---" * 7 + "|")
    for name, norms in found.items():
        quantiles = np.quantile(norms, (0.25, 0.5, 0.75), method="higher")
        nearer = int((norms < found["smallest"] * 0.99).sum())
        figures = " | ".join(f"{value:.3f}" for value in quantiles)
        print(f"| {name} | {paid[name]:.0f} | {int(np.isfinite(norms).sum())} | {figures} | {nearer} |")


class _Affine(nn.Module):
    def __init__(self, low: float, width: float) -> None:
        super().__init__()
        self.low, self.width = low, width

    def forward(self, u: Tensor) -> Tensor:
        return self.low + self.width * u


def _norms(subject: Subject, search: Search) -> tuple[np.ndarray, float]:
    """Of each slice the norm of the noise at which it fails, inf where none was found; forwards and gradients a slice
    took."""
    assert isinstance(subject.target.network, nn.Module)
    model, objective = Counted(subject.target.network).eval(), subject.target.objective()
    norms = []
    for batch in batches(subject.slices.places, 32):
        x, y, _ = stacked(subject.target, subject.slices.read(batch))
        point = search(x, y, model)
        with torch.no_grad():
            fails = ~objective.correct(subject.target.network(point), y)
        norms.append(torch.where(fails, ball.size(point - x, "linf"), torch.inf))
    return torch.cat(norms).numpy(), (model.forwards + model.gradients) / len(subject.slices)
