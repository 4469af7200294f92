"""The trainers nnU-Net shall find by name; the classes live in `nnunet_ima.segmentation`.

Besides those named here each method of `nnunet_ima.methods.registry` has one: nnUNetTrainerTRADES, and with the noise
level in its name nnUNetTrainerTRADES5.
"""

from typing import Any

from nnunet_ima.segmentation.plain_trainer import nnUNetTrainerPlain
from nnunet_ima.segmentation.trainer import nnUNetTrainerIMA
from nnunet_ima.segmentation.trainers import trainer_named

__all__ = ["nnUNetTrainerIMA", "nnUNetTrainerPlain"]


def __getattr__(name: str) -> Any:
    trainer = trainer_named(name)
    if trainer is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return trainer
