"""The trainers nnU-Net shall find by name; the classes live in `nnunet_ima.segmentation.trainer`."""

from nnunet_ima.segmentation.trainer import nnUNetTrainerIMA, nnUNetTrainerPlain

__all__ = ["nnUNetTrainerIMA", "nnUNetTrainerPlain"]
