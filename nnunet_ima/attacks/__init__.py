"""What can be done to an image. Pure torch; knows no nnU-Net and no files."""

from nnunet_ima.attacks.apgd import apgd
from nnunet_ima.attacks.boundary import Boundary, bpgd
from nnunet_ima.attacks.frequency import frequency
from nnunet_ima.attacks.objective import CrossEntropy, Margin, Objective
from nnunet_ima.attacks.padam import padam
from nnunet_ima.attacks.pgd import pgd
from nnunet_ima.attacks.smallest import smallest
from nnunet_ima.attacks.spsa import spsa
from nnunet_ima.attacks.square import square

__all__ = [
    "Boundary",
    "CrossEntropy",
    "Margin",
    "Objective",
    "apgd",
    "bpgd",
    "frequency",
    "padam",
    "pgd",
    "smallest",
    "spsa",
    "square",
]
