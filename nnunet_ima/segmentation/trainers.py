"""A trainer for each method: nnUNetTrainerTRADES, with the noise level in its name nnUNetTrainerTRADES5."""

import re
from functools import cache

from nnunet_ima.methods.method import settings_of
from nnunet_ima.methods.registry import methods
from nnunet_ima.segmentation.plain_trainer import nnUNetTrainerPlain
from nnunet_ima.segmentation.trainer import nnUNetTrainerIMA, nnUNetTrainerMethod


@cache
def trainer_named(name: str) -> type[nnUNetTrainerPlain] | None:
    """The trainer of this name, None if no method has it. A level may have a fraction: nnUNetTrainerAdv2p5."""
    for known in (nnUNetTrainerPlain, nnUNetTrainerIMA):
        if name == known.__name__:
            return known
    parts = re.fullmatch(r"nnUNetTrainer([A-Za-z]+?)(\d+(?:p\d+)?)?", name)
    if parts is None:
        return None
    for method in methods().values():
        if method.label != parts[1] or method.word == "ce" or (parts[2] and "noise" not in settings_of(method)):
            continue
        level = float(parts[2].replace("p", ".")) if parts[2] else None
        return type(name, (nnUNetTrainerMethod,), {"method": method, "level": level, "__doc__": method.__doc__})
    return None
