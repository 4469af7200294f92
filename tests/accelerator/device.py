"""Tensors that say `nogpu:0` and hold their data on the CPU; they mix with CPU tensors only as those of CUDA do.

`with Accelerator() as device:` also counts what makes the host wait for the device. Not imitated: streams, pinned
memory, cuDNN's choice of algorithms, autocast's cache of weights, and the branches of the code that ask whether a
device's type is "cuda".
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils import _python_dispatch
from torch.utils._pytree import tree_map_only

from tests.accelerator import backend

aten = torch.ops.aten
TorchDispatchMode: Any = _python_dispatch.TorchDispatchMode
"""Not typed by torch."""
REDUCED = (torch.float16, torch.bfloat16)
ACCUMULATED = (aten.convolution, aten.convolution_backward, aten.addmm, aten.mm, aten.bmm, aten.baddbmm)
"""What tensor cores add up in float32; the CPU would round every partial sum to 16 bits."""
INDEXING = (aten.index, aten._unsafe_index, aten.index_put, aten.index_put_, aten._index_put_impl_)
WITH_SCALARS = (aten.masked_fill, aten.masked_fill_, aten.fill, aten.fill_)
"""Besides pointwise operations, what takes a single number that lies on the CPU."""
WAITING = {
    aten._local_scalar_dense: "number read",
    aten.nonzero: "nonzero",
    aten.masked_select: "masked_select",
    aten.equal: "equal",
    aten._unique2: "unique",
    aten.unique_dim: "unique",
    aten.bincount: "bincount",
    aten.repeat_interleave: "repeat_interleave",
}
PACKAGES = ("nnunet_ima", "nnunetv2", "torch.amp")
"""Where a wait is looked for: the innermost line of these. The gradient scaler (torch.amp) computes in float64,
but not for MPS."""


class DeviceMixError(RuntimeError):
    """What CUDA would refuse, operands on two devices, or what it would get wrong without a word."""


class OnDevice(Tensor):
    """A tensor on `nogpu:0`; `held` is its data."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "OnDevice":
        made: OnDevice = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=torch.device(backend.NAME, 0),
        )
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return Accelerator.current().run(func, args, kwargs or {})

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"OnDevice({self.held})"

    def tolist(self) -> Any:
        Accelerator.current().wait("list read")
        return self.held.tolist()

    def numpy(self, **_: Any) -> Any:
        raise DeviceMixError(f"can't convert {backend.NAME}:0 device type tensor to numpy: copy it to the host first")

    def __array__(self, *_: Any) -> Any:
        return self.numpy()

    def __reduce_ex__(self, protocol: Any) -> Any:
        held: Any = self.held.detach()
        return held.__reduce_ex__(protocol)

    def __deepcopy__(self, memo: dict[int, Any]) -> "OnDevice":
        copied = OnDevice(self.held.clone())
        copied.requires_grad_(self.requires_grad)
        memo[id(self)] = copied
        return copied


class Accelerator(TorchDispatchMode):
    """The device while it is in use.

    waits: how often the host waited, by (place, kind). doubles: how many float64 tensors were made, by place.
    """

    _entered: "list[Accelerator]" = []  # noqa: RUF012 (one for all)

    def __init__(self) -> None:
        super().__init__()
        backend.register()
        self.waits: Counter[tuple[str, str]] = Counter()
        self.doubles: Counter[str] = Counter()

    @classmethod
    def current(cls) -> "Accelerator":
        if not cls._entered:
            raise RuntimeError("A tensor of the accelerator is used outside of `with Accelerator()`.")
        return cls._entered[-1]

    @property
    def kinds(self) -> Counter[str]:
        """The waits by kind."""
        found: Counter[str] = Counter()
        for (_, kind), number in self.waits.items():
            found[kind] += number
        return found

    def reset(self) -> None:
        """Count anew from here."""
        self.waits.clear()
        self.doubles.clear()

    def __enter__(self) -> "Accelerator":
        self._stack = ExitStack()
        # Modules exchange their parameters, for the data of a CPU tensor cannot become that of another device.
        self._stack.enter_context(_overwritten_parameters())
        self._stack.enter_context(_lifted_from_the_cpu())
        self._stack.enter_context(mock.patch.object(torch, "load", _loading(torch.load)))
        self._entered.append(self)
        super().__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        super().__exit__(*exc)
        self._entered.remove(self)
        self._stack.close()

    def wait(self, kind: str) -> None:
        self.waits[place(), kind] += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """One operation of torch: refused, or computed on the CPU, and counted."""
        flat = [*_leaves(args), *kwargs.values()]
        here = [value for value in flat if isinstance(value, OnDevice)]
        wanted = kwargs.get("device")
        stays = _is_ours(wanted) if wanted is not None else bool(here)
        if not here and not stays:
            return func(*args, **kwargs)
        away = [value for value in flat if isinstance(value, Tensor) and not isinstance(value, OnDevice)]
        if func.overloadpacket in (aten._to_copy, aten.copy_):
            stays = self._copied(func, args, kwargs, here, away, stays)
        else:
            self._check(func, args, here, away, flat)
            self._count(func, args, away)
        result = _compute(func, _mapped(_on_cpu, args), {name: _on_cpu(value) for name, value in kwargs.items()}, flat)
        return self._returned(result, here, stays)

    def _copied(self, func: Any, args: Any, kwargs: Any, here: Any, away: Any, stays: bool) -> bool:
        """Whether a copy's result is on the device; a copy between devices is waited for."""
        if func.overloadpacket is aten.copy_:
            stays = isinstance(args[0], OnDevice)
        if stays and away and not (kwargs.get("non_blocking") or args[2:] == (True,)):
            self.wait("copy to device")
        if not stays and here:
            if kwargs.get("non_blocking") or args[2:] == (True,):
                raise DeviceMixError(f"a copy to the host that is not waited for may be read too early, at {place()}")
            self.wait("copy to host")
        return stays

    def _check(self, func: Any, args: Any, here: Sequence[Tensor], away: Sequence[Tensor], flat: Any) -> None:
        """DeviceMixError where CUDA would refuse."""
        if func.overloadpacket in INDEXING and isinstance(args[0], OnDevice):
            # CUDA takes indices from the CPU, and copies them.
            away = [tensor for tensor in away if not any(tensor is index for index in args[1])]
        elif any(isinstance(value, torch.Generator) and value.device.type != backend.NAME for value in flat):
            raise DeviceMixError(f"{func} on the device with a generator of the CPU, at {place()}")
        if not here or not away:
            return
        takes_scalars = (
            torch.Tag.pointwise in func.tags
            or func.overloadpacket in (*INDEXING, *WITH_SCALARS)
            or "foreach" in func.name()
        )
        written = func._schema.arguments[0].alias_info is not None and func._schema.arguments[0].alias_info.is_write
        into_cpu = written and isinstance(args[0], Tensor) and not isinstance(args[0], OnDevice)
        if into_cpu or any(tensor.dim() or not takes_scalars for tensor in away):
            shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in (away, here)]
            raise DeviceMixError(f"{func}: shapes {shapes[0]} on the CPU with {shapes[1]} on the device, at {place()}")

    def _count(self, func: Any, args: Any, away: Sequence[Tensor]) -> None:
        packet = func.overloadpacket
        if packet in WAITING:
            self.wait(WAITING[packet])
        if packet not in INDEXING:
            return
        indices = [index for index in args[1] if index is not None]
        # A number written where a mask says becomes a masked_fill, which waits for nothing.
        if len(args) > 2 and args[2].dim() == 0 and len(indices) == 1 and indices[0].dtype == torch.bool:
            return
        for index in indices:
            if not isinstance(index, OnDevice):
                self.wait("index from the CPU")
            elif index.dtype in (torch.bool, torch.uint8):
                self.wait("mask as index")

    def _returned(self, result: Any, here: Sequence[OnDevice], stays: bool) -> Any:
        """The result as tensors of the device; what was written in place is the tensor that it was."""
        if not stays:
            return result
        known = {id(tensor.held): tensor for tensor in here}

        def wrapped(tensor: Any) -> Any:
            if not isinstance(tensor, Tensor):
                return tensor
            if id(tensor) in known:
                return known[id(tensor)]
            if tensor.dtype == torch.float64:
                self.doubles[place()] += 1
            return OnDevice(tensor)

        return _mapped(wrapped, result)


def place() -> str:
    """file:line of the innermost line of `PACKAGES` that is running."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        for folder in _folders():
            if frame.f_code.co_filename.startswith(folder):
                return f"{Path(frame.f_code.co_filename).relative_to(Path(folder).parent)}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"


def _folders(found: list[str] = []) -> list[str]:  # noqa: B006 (a cache)
    if not found:
        for package in PACKAGES:
            spec = find_spec(package)
            assert spec is not None and spec.origin is not None
            found.append(f"{Path(spec.origin).parent}/")
    return found


def _is_ours(device: Any) -> bool:
    return torch.device(device).type == backend.NAME


def _on_cpu(value: Any) -> Any:
    if isinstance(value, OnDevice):
        return value.held
    if isinstance(value, torch.device) and value.type == backend.NAME:
        return torch.device("cpu")
    return value


def _compute(func: Any, args: Any, kwargs: Any, flat: Sequence[Any]) -> Any:
    if func.overloadpacket not in ACCUMULATED:
        return func(*args, **kwargs)
    dtypes = {value.dtype for value in flat if isinstance(value, Tensor)}
    if len(dtypes) != 1 or not dtypes <= {*REDUCED}:
        return func(*args, **kwargs)
    (dtype,) = dtypes
    wide = func(*_mapped(lambda value: value.float() if isinstance(value, Tensor) else value, args), **kwargs)
    return _mapped(lambda value: value.to(dtype) if isinstance(value, Tensor) else value, wide)


def _leaves(value: Any) -> Iterator[Any]:
    """What is in (nested) lists and tuples; torch's own pytree takes ten times as long."""
    if isinstance(value, list | tuple):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


def _mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """The same lists and tuples of other leaves."""
    if isinstance(value, list | tuple):
        return type(value)([_mapped(function, part) for part in value])
    return function(value)


@contextmanager
def _overwritten_parameters() -> Iterator[None]:
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)


@contextmanager
def _lifted_from_the_cpu() -> Iterator[None]:
    """`torch.tensor(..., device="nogpu")` makes the tensor on the CPU and copies it, as for CUDA."""
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)
    try:
        yield
    finally:
        torch._C._set_only_lift_cpu_tensors(before)


def _loading(load: Any) -> Any:
    """`torch.load` that knows this device as a `map_location`."""

    def loading(file: Any, map_location: Any = None, **kwargs: Any) -> Any:
        if not isinstance(map_location, str | torch.device) or not _is_ours(map_location):
            return load(file, map_location=map_location, **kwargs)
        content = load(file, map_location="cpu", **kwargs)
        return tree_map_only(torch.Tensor, lambda tensor: tensor.to(backend.NAME), content)

    return loading
