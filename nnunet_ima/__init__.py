"""nnunet-ima: hardens nnU-Net against adversarial and scanner noise."""

__version__ = "0.1.0"
