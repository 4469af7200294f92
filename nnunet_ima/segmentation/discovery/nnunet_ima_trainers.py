"""The trainers nnU-Net shall find by name; the classes live in `nnunet_ima.segmentation`."""

from nnunet_ima.segmentation.plain_trainer import nnUNetTrainerPlain
from nnunet_ima.segmentation.trainer import nnUNetTrainerIMA

__all__ = ["nnUNetTrainerIMA", "nnUNetTrainerPlain"]
