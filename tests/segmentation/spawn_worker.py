"""What a data loading worker does where processes are spawned (Windows, macOS)."""

import pickle
from typing import Any


def draw(pickled: bytes) -> dict[str, Any]:
    """A batch of the loader that comes as nnU-Net's augmenter would send it."""
    loader = pickle.loads(pickled)
    batch = next(loader)
    return {"keys": list(batch["keys"]), "blocks": batch["blocks"].tolist(), "shape": tuple(batch["data"].shape)}
