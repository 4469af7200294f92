"""Small models whose attacks have closed forms."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from nnunet_ima.classification.train import ClassificationBatch


def recorded_sizes(network: nn.Module) -> list[int]:
    """The batch sizes of the calls of `network` that follow, as they come."""
    sizes: list[int] = []
    network.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    return sizes


class LinearModel(nn.Module):
    """Two classes, logits (-f/2, f/2) with f = w.x + b, so that the boundary is the plane f = 0."""

    def __init__(self, weight: Tensor, bias: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.flatten().clone())
        self.bias = nn.Parameter(torch.tensor(bias))

    def score(self, x: Tensor) -> Tensor:
        """f(x), (N,)."""
        return (x.flatten(1) * self.weight).sum(1) + self.bias

    def forward(self, x: Tensor) -> Tensor:
        f = self.score(x)
        return torch.stack([-f / 2, f / 2], 1)

    @torch.no_grad()
    def distance(self, x: Tensor, norm: str = "l2") -> Tensor:
        """Exact distance of each sample from the boundary: |f| over the dual norm of w."""
        dual = self.weight.norm() if norm == "l2" else self.weight.abs().sum()
        return self.score(x).abs() / dual

    @torch.no_grad()
    def label(self, x: Tensor) -> Tensor:
        return (self.score(x) > 0).long()


def linear_model(shape: tuple[int, ...], seed: int = 0) -> LinearModel:
    """A linear model for images of `shape`, with random weights and bias."""
    generator = torch.Generator().manual_seed(seed)
    return LinearModel(torch.randn(shape, generator=generator), bias=0.25)


@torch.no_grad()
def at_distances(model: LinearModel, shape: tuple[int, ...], distances: list[float], norm: str = "l2") -> Tensor:
    """One sample per number, exactly so far from the boundary, alternately of class 1 and class 0."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn((len(distances), *shape), generator=generator)
    weight = model.weight.view(shape)
    x = x - model.score(x).view(-1, *[1] * len(shape)) * weight / weight.square().sum()
    unit = weight / weight.norm() if norm == "l2" else weight.sign()
    signed = torch.tensor([d if i % 2 == 0 else -d for i, d in enumerate(distances)])
    return x + signed.view(-1, *[1] * len(shape)) * unit


class Curved(nn.Module):
    """A small smooth network with three classes, for what needs no closed form."""

    def __init__(self, inputs: int, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.first = nn.Parameter(torch.randn(inputs, 16, generator=generator))
        self.second = nn.Parameter(torch.randn(16, 3, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = torch.tanh(x.flatten(1) @ self.first)
        return hidden @ self.second


@dataclass
class Counting:
    """A model that remembers the size of every batch it was given."""

    model: Callable[[Tensor], Tensor]
    batches: list[int] = field(default_factory=list)

    def __call__(self, x: Tensor) -> Tensor:
        self.batches.append(len(x))
        return self.model(x)

    @property
    def samples(self) -> int:
        return sum(self.batches)


def generators(seeds: list[int]) -> list[torch.Generator]:
    """One generator per sample."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def batch_of(model: nn.Module, x: Tensor, y: Tensor, ids: Sequence[Hashable]) -> ClassificationBatch:
    """One training step of a classifier, as the methods see it."""
    return ClassificationBatch(x.clone(), y, ids, model)
