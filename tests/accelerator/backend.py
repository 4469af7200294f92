"""The device type `nogpu`, made known to torch: as a device, to autograd, and to autocast with the lists of CUDA.

It lasts for the life of the process, so that only a process of its own may call `register`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

NAME = "nogpu"
KEY = "AutocastPrivateUse1"
LOWER = (
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d.input",
    "conv_transpose3d.input",
    "convolution",
    "_convolution",
    "linear",
    "matmul",
    "mm",
    "mv",
    "addmm",
    "addmv",
    "bmm",
    "baddbmm",
    "prelu",
    "einsum",
    "scaled_dot_product_attention",
)
"""What CUDA's autocast computes in float16 (or bfloat16)."""
FULL = (
    "exp",
    "expm1",
    "log",
    "log10",
    "log2",
    "log1p",
    "reciprocal",
    "rsqrt",
    "tan",
    "acos",
    "asin",
    "cosh",
    "sinh",
    "pow.Tensor_Scalar",
    "pow.Tensor_Tensor",
    "pow.Scalar",
    "softplus",
    "layer_norm",
    "native_layer_norm",
    "group_norm",
    "cosine_similarity",
    "nll_loss",
    "nll_loss2d",
    "cross_entropy_loss",
    "kl_div",
    "l1_loss",
    "smooth_l1_loss",
    "mse_loss",
    "binary_cross_entropy_with_logits",
    "norm.Scalar",
    "norm.ScalarOpt_dim",
    "dist",
    "cdist",
    "logsumexp",
)
"""What it computes in float32."""
FULL_UNLESS_TOLD = (
    "softmax.int",
    "log_softmax.int",
    "sum",
    "sum.dim_IntList",
    "prod",
    "prod.dim_int",
    "cumsum",
    "cumprod",
    "linalg_vector_norm",
)
"""The same, but a dtype in the call takes precedence."""
WIDEST = ("addcdiv", "addcmul", "atan2", "dot", "grid_sampler", "index_put", "scatter_add", "cat", "stack")
"""What it computes in the widest of the dtypes that it is given."""

_libraries: list[Any] = []


def missing() -> str | None:
    """What this torch lacks to imitate a device; None where nothing is missing."""
    try:
        from torch.utils import backend_registration
    except ImportError:
        return f"torch {torch.__version__} cannot register a device in Python"
    for owner, name in (
        (backend_registration, "_setup_privateuseone_for_python_backend"),
        (backend_registration, "_DummyBackendModule"),
        (torch._C, "_get_privateuse1_backend_name"),
        (torch._C, "_set_only_lift_cpu_tensors"),
        (torch._C, "_ExcludeDispatchKeyGuard"),
        (torch._C.DispatchKey, KEY),
    ):
        if not hasattr(owner, name):
            return f"torch {torch.__version__} has no {name}"
    return None


def register() -> None:
    """Make `nogpu` known, once per process. RuntimeError where another backend has taken torch's place for one."""
    taken = torch._C._get_privateuse1_backend_name()
    if taken == NAME:
        return
    if taken != "privateuseone":
        raise RuntimeError(f"The device {taken} is registered in this process already.")
    from torch.utils import backend_registration

    class Module(backend_registration._DummyBackendModule):
        def get_amp_supported_dtype(self) -> list[torch.dtype]:
            return [torch.float16, torch.bfloat16]

    setup: Any = backend_registration._setup_privateuseone_for_python_backend
    setup(NAME, Module())
    _register_autocast()


def _register_autocast() -> None:
    open_library: Any = torch.library.Library
    others = open_library("_", "IMPL", KEY)
    others.fallback(torch.library.fallthrough_kernel)
    library = open_library("aten", "IMPL", KEY)
    _libraries.extend((others, library))
    lists: tuple[tuple[tuple[str, ...], Callable[..., torch.dtype | None]], ...] = (
        (LOWER, lambda tensors, told: torch.get_autocast_dtype(NAME)),
        (FULL, lambda tensors, told: torch.float32),
        (FULL_UNLESS_TOLD, lambda tensors, told: None if told else torch.float32),
        (WIDEST, lambda tensors, told: _widest(tensors)),
    )
    for names, choose in lists:
        for name in names:
            packet, _, overload = name.partition(".")
            operator = getattr(getattr(torch.ops.aten, packet), overload or "default")
            library.impl(name, partial(_cast_and_call, operator, choose))


def _cast_and_call(operator: Any, choose: Callable[..., torch.dtype | None], *args: Any, **kwargs: Any) -> Any:
    """The operator outside of autocast, on arguments of the dtype that the list chooses."""
    key: Any = getattr(torch._C.DispatchKey, KEY)
    with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(key)):
        flat, spec = tree_flatten((args, kwargs))
        dtype = choose([value for value in flat if _is_cast(value)], kwargs.get("dtype") is not None)
        cast = [value.to(dtype) if dtype is not None and _is_cast(value) else value for value in flat]
        args, kwargs = tree_unflatten(cast, spec)
        return operator(*args, **kwargs)


def _is_cast(value: Any) -> bool:
    """Autocast leaves alone what is on other devices, and float64."""
    return (
        isinstance(value, torch.Tensor)
        and value.device.type == NAME
        and value.is_floating_point()
        and value.dtype != torch.float64
    )


def _widest(tensors: list[torch.Tensor]) -> torch.dtype | None:
    dtypes = {tensor.dtype for tensor in tensors}
    return torch.float32 if torch.float32 in dtypes else None
