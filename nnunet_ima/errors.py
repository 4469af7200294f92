"""Mistakes of a user: one sentence that names the argument, its value and the remedy, never a traceback."""


class UserError(ValueError):
    """Raised for input that only the user can put right; commands print it and exit with 1."""


def first_line(error: BaseException) -> str:
    """What an error says, short enough for a sentence."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch ran out of memory, on a GPU or on the CPU (where it has no exception of its own for it)."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
