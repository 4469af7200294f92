"""Few batch sizes for a compiled network, which would otherwise be compiled anew for each size of the active set."""

import torch
from torch import Tensor

from nnunet_ima.attacks.frozen import Model


def bucketed(model: Model, largest: int) -> Model:
    """`model` called only with batches of 1, 2, 4, ... or `largest`: padded with copies of the first sample, whose
    outputs are dropped."""

    def run(x: Tensor) -> Tensor:
        count = len(x)
        bucket = min(1 << (count - 1).bit_length(), max(largest, count))
        if bucket == count:
            return model(x)
        padding = x[:1].expand(bucket - count, *x.shape[1:])
        return model(torch.cat([x, padding]))[:count]

    return run
