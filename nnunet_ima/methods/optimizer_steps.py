"""Whether the optimiser took its step."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def steps_of(optimizer: torch.optim.Optimizer) -> Iterator[list[bool]]:
    """Grows by one for each step that the optimiser takes within: a `GradScaler` leaves out the step of gradients that
    are not finite.

    The optimiser is asked and not the scale, for whose value the host would wait. (One of torch's `fused` kind, which
    neither nnU-Net nor the classifier has, is always called and looks at the gradients itself.)
    """
    taken: list[bool] = []
    hook = optimizer.register_step_post_hook(lambda *_: taken.append(True))
    try:
        yield taken
    finally:
        hook.remove()
