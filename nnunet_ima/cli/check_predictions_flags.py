"""The flags of `nnunet-ima-check-predictions`."""

import argparse
from pathlib import Path
from typing import Any

from nnunet_ima.cli.common import add_checkpoint, add_device, names_among, positive
from nnunet_ima.evaluation.noise_names import CORRUPTION_NAMES

SCORE_NAMES = ("pairwise_dice", "plain_dice", "smallest_noise")


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="nnunet-ima-check-predictions",
        description="Puts the cases of a trained nnU-Net model in the order in which their segmentations should be "
        "checked: by scores that need no reference. Where there are references it also tells how well each score "
        "finds the bad ones.",
    )
    result.add_argument("-d", required=True, metavar="DATASET", help="data set: D4, 4 or Dataset004_Hippocampus")
    result.add_argument("-o", type=Path, required=True, metavar="FOLDER", help="write here")
    _add_models(result.add_argument_group("which models"))
    _add_cases(result.add_argument_group("which cases"))
    _add_scores(result.add_argument_group("which scores"))
    return result


def _add_models(group: Any) -> None:
    group.add_argument("-c", metavar="CONFIGURATION", help="[OPTIONAL] configuration, like 3d_fullres; default: 2D")
    group.add_argument(
        "-f",
        nargs="+",
        action="extend",
        metavar="FOLD",
        help="[OPTIONAL] fold, 0 to 4, or several like 0,1,2,3,4: their mean is the prediction that is checked, as "
        "nnU-Net predicts, and each is a member of the ensemble; default: the one trained last",
    )
    group.add_argument("-tr", metavar="TRAINER", help="[OPTIONAL] trainer; default: that of the newest checkpoint")
    group.add_argument(
        "-p", metavar="PLANS", help="[OPTIONAL] plans identifier; default: that of the newest checkpoint"
    )
    add_checkpoint(group)
    group.add_argument(
        "--members",
        nargs="+",
        action="extend",
        type=Path,
        default=[],
        metavar="FILE",
        help="[OPTIONAL] checkpoints of other models of the same labels, like the same one trained with another seed, "
        "that count as members of the ensemble; the prediction that is checked stays that of -f",
    )
    group.add_argument(
        "--plain",
        type=Path,
        metavar="FILE",
        help="[OPTIONAL] checkpoint of the plain model beside a hardened one (or the other way round)",
    )
    group.add_argument(
        "--mirroring",
        action="store_true",
        help="[OPTIONAL] predict as nnU-Net does by default: the mean over mirrored images",
    )
    add_device(group)


def _add_cases(group: Any) -> None:
    group.add_argument(
        "--cases",
        default="heldout",
        help="[OPTIONAL] the held-out cases of the fold (heldout, the default), their first third (validation) or "
        "the rest (test), or names of cases separated by commas",
    )
    group.add_argument(
        "-i",
        type=Path,
        metavar="FOLDER",
        help="[OPTIONAL] check other cases: a folder of raw images named like CASE_0000.nii.gz; default: the held-out "
        "cases of a single fold, imagesTs of the data set for several",
    )
    group.add_argument(
        "-gt",
        type=Path,
        metavar="FOLDER",
        help="[OPTIONAL] folder of their references, named like CASE.nii.gz, to judge the scores; default: none",
    )
    group.add_argument(
        "--corruptions",
        type=names_among(CORRUPTION_NAMES, everything=True),
        default=(),
        metavar="NAME,...",
        help="[OPTIONAL] judge the scores under noise that scanners make, too: all (those that are installed), or some "
        f"of {', '.join(CORRUPTION_NAMES)}; needs references; default: none",
    )
    group.add_argument(
        "--severities",
        type=names_among(("1", "2", "3", "4", "5")),
        default=("3",),
        metavar="1,...",
        help="[OPTIONAL] of the corruptions, 1 to 5; default: 3",
    )


def _add_scores(group: Any) -> None:
    group.add_argument(
        "--by",
        choices=SCORE_NAMES,
        help="[OPTIONAL] the score that gives the order; default: the first of these that the models allow",
    )
    group.add_argument(
        "--no-smallest",
        action="store_true",
        help="[OPTIONAL] leave out the smallest noise, which takes by far the longest",
    )
    group.add_argument(
        "--largest",
        type=float,
        default=25.0,
        metavar="LEVEL",
        help="[OPTIONAL] where the search for the smallest noise ends: its L2 norm on a slice, in normalised "
        "intensities (SD); default: 25",
    )
    group.add_argument(
        "--per-case",
        type=positive,
        default=8,
        metavar="SLICES",
        help="[OPTIONAL] slices of a case that it is searched for, evenly spread over those in which the model finds "
        "something; their median counts; default: 8",
    )
    group.add_argument("--steps", type=positive, default=100, help="[OPTIONAL] gradient steps, about; default: 100")
    group.add_argument("--seed", type=int, default=0, help="[OPTIONAL] seed of all random numbers; default: 0")
    group.add_argument("--batch-size", type=positive, default=32, help="[OPTIONAL] slices per batch; default: 32")
    group.add_argument("--overwrite", action="store_true", help="[OPTIONAL] replace the results of another run")
