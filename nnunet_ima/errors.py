"""Mistakes of a user: one sentence that names the argument, its value and the remedy, never a traceback."""

import math
from typing import Any


class UserError(ValueError):
    """Raised for input that only the user can put right; commands print it and exit with 1."""


def first_line(error: BaseException) -> str:
    """What an error says, short enough for a sentence."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def check_number(name: str, value: Any, low: float, high: float = math.inf, *, whole: bool = False) -> None:
    """UserError unless the value is a finite number, or whole number, from low to high."""
    kind = int if whole else int | float
    fits = not isinstance(value, bool) and isinstance(value, kind) and low <= value <= high
    if not fits or math.isinf(value):
        wanted = "a whole number" if whole else "a number"
        allowed = f"from {low:g} to {high:g}" if math.isfinite(high) else f"not below {low:g}"
        raise UserError(f"{name} must be {wanted} {allowed}, got {value!r}.")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch ran out of memory, on a GPU or on the CPU (where it has no exception of its own for it)."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
