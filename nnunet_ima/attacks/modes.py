"""Networks that compute something else in training than in evaluation."""

from collections.abc import Iterator
from functools import cache
from types import CodeType

from torch import nn
from torch._dynamo import OptimizedModule
from torch.nn.modules.instancenorm import _InstanceNorm


def same_in_eval_mode(network: nn.Module) -> bool:
    """Whether a sample's output is the same in train and in eval mode, whatever its batch mates (nnU-Net's default).

    By what the modules' own code asks for, which also finds layers that nobody has listed here: dropout, DropPath,
    batch norm, random activations. A module that asks in vain only costs the attack a pass of its own.
    """
    return not any(_asks_for_mode(module) for module in network.modules())


def _asks_for_mode(module: nn.Module) -> bool:
    if isinstance(module, OptimizedModule):
        # It passes the mode on to the network that it wraps, whose modules are asked themselves.
        return False
    if isinstance(module, _InstanceNorm):
        # It asks, and then normalises each sample by itself in both modes, unless it has running statistics.
        return bool(module.track_running_stats)
    return _class_asks(type(module))  # type: ignore[arg-type]  # a class has a hash, whatever its objects have


@cache
def _class_asks(kind: type[nn.Module]) -> bool:
    return any("training" in code.co_names for code in _own_code(kind))


def _own_code(kind: type[nn.Module]) -> Iterator[CodeType]:
    """The methods of a class of modules, those that it inherits included, up to `nn.Module`'s."""
    for parent in kind.__mro__[: kind.__mro__.index(nn.Module)]:
        for member in vars(parent).values():
            code = getattr(member, "__code__", None)
            if isinstance(code, CodeType):
                yield code
