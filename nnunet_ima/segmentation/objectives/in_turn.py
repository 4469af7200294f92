"""What the attacks of a training climb: one loss, or several in turn so that none of their blind spots stays."""

from nnunet_ima.segmentation.objectives.dice import SegmentationObjective
from nnunet_ima.segmentation.objectives.ensemble import STRONG

ATTACK_LOSSES = ("nnunet", "in_turn")
"""`nnunet`: nnU-Net's own loss per slice; `in_turn`: that and the losses of `STRONG`, a step of training each."""


def in_turn(objective: SegmentationObjective, step: int) -> SegmentationObjective:
    """The objective of this step of an epoch; about which slice is correct it agrees with the given one."""
    kinds: list[type[SegmentationObjective]] = [SegmentationObjective, *STRONG.values()]
    kind = kinds[step % len(kinds)]
    return kind(
        objective.num_foreground, objective.regions, objective.ignore_label, objective.threshold, objective.rule
    )
