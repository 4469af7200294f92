"""A checkpoint from a stranger must not run code.

nnU-Net reads checkpoints with pickle, which can call any function a file names. What a file names can be listed without
calling it: only tensors, plain Python and numpy's numbers may be in it.
"""

import os
import pickle
from pathlib import Path

import torch

from nnunet_ima.errors import UserError, first_line

# What nnU-Net's own checkpoints hold beside tensors and plain Python: numbers of its log, arrays of its plans.
ALLOWED = {
    f"numpy.{name}"
    for name in (
        "dtype",
        "ndarray",
        "core.multiarray.scalar",
        "_core.multiarray.scalar",
        "core.multiarray._reconstruct",
        "_core.multiarray._reconstruct",
    )
} | {"_codecs.encode"}


def check_checkpoint(file: str | os.PathLike[str]) -> None:
    """UserError, naming them, for a checkpoint that names functions or classes it has no business with; and for one
    that is missing or damaged."""
    if not Path(file).is_file():
        raise UserError(f"{file} does not exist: choose another checkpoint.")
    try:
        named = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except (RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(f"{file} is damaged ({first_line(error)}): choose another checkpoint.") from error
    strange = sorted(name for name in named if name not in ALLOWED and not name.startswith("numpy.dtypes."))
    if strange:
        raise UserError(
            f"{file} was not loaded: it names {', '.join(strange)}, which nnU-Net's checkpoints do not and which could "
            "run code; ask where it comes from."
        )
