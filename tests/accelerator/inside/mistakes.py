"""The accelerator sees mistakes that are planted, and lets pass what CUDA lets pass."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from nnunet_ima.attacks import ball
from tests.accelerator.backend import NAME
from tests.accelerator.device import Accelerator, DeviceMixError
from tests.accelerator.inside.attacks import ATTACKS, L2, attacked

HOST = torch.arange(12.0).view(3, 4)
ROWS = torch.tensor([0, 2])
MISTAKES: dict[str, Callable[[Tensor], Any]] = {
    "an index of the CPU in arithmetic": lambda x: x[:, 0] + torch.arange(3),
    "a constant of the CPU": lambda x: x * torch.tensor([1.0, 2.0, 3.0, 4.0]),
    "a constant of one entry": lambda x: x / torch.tensor([2.0]),
    "compared with the CPU": lambda x: x > HOST,
    "a mask of the CPU in where": lambda x: torch.where(HOST > 3, x, 0.0),
    "a mask of the CPU in masked_fill": lambda x: x.masked_fill(HOST > 3, 0.0),
    "joined": lambda x: torch.cat([x, HOST]),
    "joined with a single number": lambda x: torch.stack([x.sum(), torch.tensor(1.0)]),
    "added to the CPU in place": lambda x: HOST.clone().add_(x),
    "a number of the CPU in place": lambda x: torch.tensor(0.0).add_(x.sum()),
    "gathered by the CPU": lambda x: x.gather(1, torch.zeros(3, 1, dtype=torch.long)),
    "scattered by the CPU": lambda x: x.scatter(1, torch.zeros(3, 1, dtype=torch.long), 0.0),
    "selected by the CPU": lambda x: x.index_select(0, ROWS),
    "an index of the device on the CPU": lambda x: HOST[ROWS.to(NAME)],
    "a mask of the device on the CPU": lambda x: HOST[x > 3],
    "rows of the CPU written": lambda x: x.index_put((ROWS.to(NAME),), HOST[:2]),
    "labels of the CPU": lambda x: functional.cross_entropy(x, torch.tensor([0, 1, 2])),
    "weights of the CPU": lambda x: functional.linear(x, torch.ones(2, 4)),
    "a matrix of the CPU": lambda x: x @ HOST.T,
    "a generator of the CPU": lambda x: torch.randn(3, device=x.device, generator=torch.Generator()),
    "drawn with a generator of the CPU": lambda x: torch.poisson(x, generator=torch.Generator()),
    "numpy of the device": lambda x: x.numpy(),
    "read before it has arrived": lambda x: x.to("cpu", non_blocking=True),
    "its gradient": lambda x: torch.autograd.grad(x.requires_grad_().sum(), x, grad_outputs=torch.ones(1)),
}
ALLOWED: dict[str, tuple[Callable[[Tensor], Any], Callable[[Tensor], Any], dict[str, int]]] = {
    "a number of the CPU": (lambda x: x * torch.tensor(2.0), lambda x: x * 2, {}),
    "a Python number": (lambda x: (x + 1).clamp(2, 7), lambda x: (x + 1).clamp(2, 7), {}),
    "an index of the CPU": (lambda x: x[ROWS], lambda x: x[ROWS], {"index from the CPU": 1}),
    "an index of the device": (lambda x: x[ROWS.to(NAME, non_blocking=True)], lambda x: x[ROWS], {}),
    "a mask": (lambda x: x[x > 3], lambda x: x[x > 3], {"mask as index": 1}),
    "a number where a mask says": (lambda x: x.index_put((x > 3,), x.new_zeros(())), lambda x: x * (x <= 3), {}),
    "copied": (lambda x: torch.zeros(3, 4).copy_(x).to(NAME), lambda x: x, {"copy to host": 1, "copy to device": 1}),
    "a number read": (lambda x: x + float(x.sum()), lambda x: x + x.sum(), {"number read": 1}),
    "a list read": (
        lambda x: torch.tensor(x.tolist(), device=NAME),
        lambda x: x,
        {"list read": 1, "copy to device": 1},
    ),
    "nonzero": (lambda x: torch.nonzero(x), lambda x: torch.nonzero(x), {"nonzero": 1}),
    "drawn on the CPU": (
        lambda x: x + torch.randn(4, generator=torch.Generator().manual_seed(1)).to(NAME),
        lambda x: x + torch.randn(4, generator=torch.Generator().manual_seed(1)),
        {"copy to device": 1},
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_planted_mistake_is_seen(name: str, device: Accelerator) -> None:
    x = HOST.to(NAME)
    with pytest.raises((DeviceMixError, RuntimeError)) as refused:
        MISTAKES[name](x)
    # Torch itself checks gradients, before any operation runs.
    assert isinstance(refused.value, DeviceMixError) or name == "its gradient"


@pytest.mark.parametrize("name", ALLOWED)
def test_what_cuda_allows_gives_what_the_cpu_gives(name: str, device: Accelerator) -> None:
    on_device, on_cpu, waits = ALLOWED[name]
    x = HOST.to(NAME)
    device.reset()
    found = on_device(x)
    assert device.kinds == waits
    assert found.device.type == NAME and torch.equal(found.cpu(), on_cpu(HOST))


@pytest.mark.parametrize("name", ATTACKS)
def test_a_radius_that_stayed_on_the_cpu_breaks_every_attack(
    name: str, device: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DDN has no radius; it walks with norms of its own."""
    if name == "ddn":
        monkeypatch.setattr(ball, "direction", lambda gradient, norm: gradient.cpu())
    else:
        monkeypatch.setattr(ball, "per_sample", lambda value, x, name: torch.full((len(x),), float(value)))
    with pytest.raises(DeviceMixError, match=r"nnunet_ima/attacks/\w+\.py:\d+"):
        attacked(name, L2, NAME)


def test_float64_is_listed_by_place() -> None:
    with Accelerator() as device:
        x = HOST.to(NAME)
        assert not device.doubles
        x.double()
        torch.zeros(3, dtype=torch.float64, device=NAME)
    assert device.doubles == {"elsewhere": 2}


def test_autocast_computes_what_cuda_computes_in_half(device: Accelerator) -> None:
    layer = torch.nn.Conv2d(1, 2, 3).to(NAME)
    image = torch.rand(1, 1, 8, 8).to(NAME)
    with torch.autocast(NAME, torch.float16):
        out = layer(image)
        assert out.dtype == torch.float16
        assert (out @ out.transpose(2, 3)).dtype == torch.float16
        for full in (
            out.softmax(1),
            out.exp(),
            out.sum(),
            out.sum(1),
            out.log(),
            out.pow(2),
            out.flatten(1).norm(dim=1),
        ):
            assert full.dtype == torch.float32
        assert torch.cat([out, out.float()]).dtype == torch.float32
        assert torch.relu(out).dtype == torch.float16
        assert out.sum(dtype=torch.float16).dtype == torch.float16
        functional.cross_entropy(out, torch.zeros(1, 6, 6, dtype=torch.long, device=NAME)).backward()  # type: ignore[no-untyped-call]
        with torch.autocast(NAME, enabled=False), pytest.raises(RuntimeError):
            layer(image.half())
    assert layer.weight.grad is not None and layer.weight.grad.dtype == torch.float32
    assert layer(image).dtype == torch.float32
    torch.testing.assert_close(out.float().cpu(), layer.cpu()(image.cpu()), atol=2e-3, rtol=2e-3)


def test_half_precision_is_added_up_in_float32(device: Accelerator) -> None:
    """4096 times 1 + 2048 times 2: sums in float16 would stick at 2048, and beyond 65504 lies infinity."""
    ones = torch.ones(1, 4096, dtype=torch.float16).to(NAME)
    assert float((ones @ ones.T).cpu()) == 4096
    large = torch.full((1, 100), 1000.0, dtype=torch.float16).to(NAME)
    assert torch.isinf((large @ large.T).cpu()).all()
