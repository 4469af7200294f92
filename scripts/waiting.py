"""How often the host waits for the device, by torch's own account."""

import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

WAIT = "called a synchronizing CUDA operation"
"""What torch says where the host waits for the device."""


@contextmanager
def counted_waits(device: torch.device) -> Iterator[Counter[str]]:
    """Where the host waits for the device within, file and line, and how often; complete when the context ends."""
    places: Counter[str] = Counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("warn")
        try:
            yield places
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
    places.update(f"{Path(one.filename).name}:{one.lineno}" for one in caught if WAIT in str(one.message))
