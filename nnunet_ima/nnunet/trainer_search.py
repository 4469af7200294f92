"""How nnU-Net finds our trainers: the folder `discovery/` in its search path for external trainers."""

import os
from pathlib import Path

DISCOVERY = Path(__file__).parents[1] / "segmentation" / "discovery"
VARIABLE = "nnUNet_extTrainer"


def extended_search_path() -> str:
    """The value of nnUNet_extTrainer with our folder in it, behind what is there already."""
    folders = [folder for folder in os.environ.get(VARIABLE, "").split(os.pathsep) if folder]
    return os.pathsep.join(folders if str(DISCOVERY) in folders else [*folders, str(DISCOVERY)])


def make_trainers_findable() -> None:
    """Set the search path for this process and its children."""
    os.environ[VARIABLE] = extended_search_path()
