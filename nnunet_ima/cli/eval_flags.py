"""The flags of `nnunet-ima-eval`."""

import argparse
from pathlib import Path
from typing import Any

from nnunet_ima.cli.common import add_checkpoint, add_device, frequency_band, names_among, noise_levels, positive
from nnunet_ima.evaluation.noise_names import ATTACK_NAMES, CORRUPTION_NAMES


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="nnunet-ima-eval",
        description="Attacks trained nnU-Net models (by default with PGD) and shows how fast their Dice falls. "
        "Without -d, -c, -f, -tr and -p it compares all 2D models of the data set that was trained last.",
    )
    levels = result.add_mutually_exclusive_group(required=True)
    levels.add_argument(
        "--noise",
        type=noise_levels,
        metavar="5,15,25",
        help="noise levels: norm of the noise on a slice, or with -c 3d_fullres on a volume (L2, or --norm linf), in "
        "normalised intensities (SD); level 0, no noise, is always included",
    )
    levels.add_argument(
        "--rms",
        type=noise_levels,
        metavar="0.05,0.1",
        help="noise levels as the root mean square per pixel or voxel instead, in SD: noise of the same size on slices "
        "and volumes, whatever their sizes",
    )
    _add_models(result.add_argument_group("which models"))
    _add_cases(result.add_argument_group("which slices"))
    _add_noises(result.add_argument_group("which noise"))
    _add_output(result.add_argument_group("output"))
    return result


def _add_models(group: Any) -> None:
    group.add_argument("-d", metavar="DATASET", help="[OPTIONAL] data set: D4, 4 or Dataset004_Hippocampus")
    group.add_argument(
        "-c",
        metavar="CONFIGURATION",
        help="[OPTIONAL] configuration, or several separated by commas like 2d,3d_fullres; default: all 2D ones",
    )
    group.add_argument(
        "-f",
        nargs="+",
        action="extend",
        metavar="FOLD",
        help="[OPTIONAL] fold, 0 to 4 or all, or several like 0,1,2,3,4: each is attacked on the cases that it has not "
        "seen, and the figures are those of all cases together; default: the one trained last",
    )
    group.add_argument(
        "--ensemble",
        action="store_true",
        help="[OPTIONAL] attack the folds together, as nnU-Net predicts with them, on cases that none of them has "
        "seen: those of -i and -gt; default: imagesTs and labelsTs of the data set",
    )
    group.add_argument(
        "--mirroring",
        action="store_true",
        help="[OPTIONAL] attack what nnU-Net predicts with by default: the mean over mirrored images",
    )
    group.add_argument(
        "-tr", metavar="TRAINER", help="[OPTIONAL] trainer, or several separated by commas; default: all trained ones"
    )
    group.add_argument("-p", metavar="PLANS", help="[OPTIONAL] plans identifier; default: all trained ones")
    add_checkpoint(group)
    add_device(group)


def _add_cases(group: Any) -> None:
    group.add_argument(
        "--cases",
        default="heldout",
        help="[OPTIONAL] the held-out cases of the fold (heldout, the default), their first third (validation) or "
        "the rest (test), as in the paper; or names of cases separated by commas",
    )
    group.add_argument(
        "-i",
        type=Path,
        metavar="FOLDER",
        help="[OPTIONAL] attack other cases: a folder of raw images named like CASE_0000.nii.gz; needs -gt",
    )
    group.add_argument(
        "-gt", type=Path, metavar="FOLDER", help="[OPTIONAL] folder of their references, named like CASE.nii.gz"
    )
    group.add_argument(
        "--slices",
        choices=["complete", "foreground", "all"],
        help="[OPTIONAL] which slices count: those that show all classes of their case (complete, the default), "
        "those that show any class (foreground), or all; of a 3D model whole cases count",
    )
    group.add_argument(
        "--per",
        choices=["volume", "patch"],
        default="volume",
        help="[OPTIONAL] of a 3D model: noise levels per whole volume, or per patch, which is cheaper; default: volume",
    )
    group.add_argument(
        "--batch-size",
        type=positive,
        help="[OPTIONAL] slices per batch, or volumes or patches of equal size; default: 32 slices, 1 volume, 2 "
        "patches",
    )


def _add_noises(group: Any) -> None:
    group.add_argument(
        "--attack",
        type=names_among(ATTACK_NAMES),
        default=("pgd",),
        metavar="NAME,...",
        help=f"[OPTIONAL] one or several of {', '.join(ATTACK_NAMES)}; default: pgd; the first is the "
        "main one; if that is not pgd, the files go into a folder of its name",
    )
    group.add_argument(
        "--corruptions",
        type=names_among(CORRUPTION_NAMES, everything=True),
        default=(),
        metavar="NAME,...",
        help="[OPTIONAL] noise from scanners and reconstruction, in five severities: all (those that are installed and "
        f"fit the images), or some of {', '.join(CORRUPTION_NAMES)}; default: none",
    )
    group.add_argument(
        "--calibrated",
        action="store_true",
        help="[OPTIONAL] with --corruptions: amounts at which a severity costs the same structural similarity (SSIM) "
        "for every corruption, looked for on these slices; default: fixed amounts",
    )
    group.add_argument(
        "--norm",
        choices=["l2", "linf"],
        default="l2",
        help="[OPTIONAL] norm of the noise levels: l2, or linf, the largest change of a pixel; default: l2",
    )
    group.add_argument(
        "--steps", type=positive, default=100, help="[OPTIONAL] gradient steps of an attack; default: 100"
    )
    group.add_argument(
        "--restarts",
        type=positive,
        default=1,
        help="[OPTIONAL] random starts, of which the worst point counts; default: 1",
    )
    group.add_argument(
        "--strong-steps",
        type=positive,
        default=300,
        help="[OPTIONAL] gradient steps for each of the four losses of --attack strong; default: 300",
    )
    group.add_argument(
        "--queries",
        type=positive,
        default=1000,
        help="[OPTIONAL] queries (forwards) per slice of --attack square; default: 1000",
    )
    group.add_argument(
        "--spsa-samples",
        type=positive,
        default=2048,
        help="[OPTIONAL] queries per gradient estimate of --attack spsa; default: 2048",
    )
    group.add_argument("--spsa-steps", type=positive, default=20, help="[OPTIONAL] steps of --attack spsa; default: 20")
    group.add_argument(
        "--nested",
        action="store_true",
        help="[OPTIONAL] go up the noise levels slice by slice: start from the worst noise of the level below, keep "
        "the worse of both, leave out slices that have lost everything; fewer forwards for as strong an attack, but "
        "not the paper's protocol; the files go into a folder of that name",
    )
    group.add_argument(
        "--band",
        type=frequency_band,
        metavar="LOW,HIGH",
        help="[OPTIONAL] frequencies of the noise of --attack frequency, in shares of the Nyquist frequency (half a "
        "period per pixel), HIGH itself not among them; default: 0,0.25",
    )
    group.add_argument(
        "--vanish", metavar="CLASS", help="[OPTIONAL] name of the class that --attack vanish makes disappear"
    )
    group.add_argument(
        "--transfer-from",
        metavar="TRAINER",
        help="[OPTIONAL] trainer of the model whose noise --attack transfer uses; default: another of the compared "
        "models",
    )
    group.add_argument(
        "--noise-on-padding",
        action="store_true",
        help="[OPTIONAL] also attack the zeros that pad a slice smaller than the patch, as the authors' code does, "
        "for figures beside those of the paper; default: only the image's own pixels",
    )
    group.add_argument("--seed", type=int, default=0, help="[OPTIONAL] seed of all random numbers; default: 0")


def _add_output(group: Any) -> None:
    group.add_argument(
        "--audit", action="store_true", help="[OPTIONAL] check on up to 16 slices whether the attack can be trusted"
    )
    group.add_argument(
        "--smallest",
        action="store_true",
        help="[OPTIONAL] also look for the smallest noise at which each slice fails (a Dice of 60 %% or less), up to "
        "the largest level of --noise",
    )
    group.add_argument(
        "--per-structure",
        action="store_true",
        help="[OPTIONAL] with --smallest: also the smallest noise at which each structure fails, whatever becomes of "
        "the others; one more search for each",
    )
    group.add_argument(
        "--certify",
        type=float,
        metavar="SIGMA",
        help="[OPTIONAL] also certify the model smoothed by Gaussian noise of this standard deviation (in SD): a Dice "
        "that no noise of a stated norm can take from it",
    )
    group.add_argument(
        "--certify-samples",
        type=positive,
        default=300,
        metavar="N",
        help="[OPTIONAL] answers per slice of --certify; more certify larger norms; default: 300",
    )
    group.add_argument(
        "--volumes",
        action="store_true",
        help="[OPTIONAL] also predict whole cases under attack with nnU-Net's own predictor",
    )
    group.add_argument(
        "--save-volumes",
        action="store_true",
        help="[OPTIONAL] like --volumes, and keep noisy images and predictions for a viewer",
    )
    group.add_argument(
        "--surface",
        type=float,
        metavar="MM",
        help="[OPTIONAL] with --volumes: add NSD at this tolerance in mm, and HD95 in mm",
    )
    group.add_argument(
        "-o", type=Path, metavar="FOLDER", help="[OPTIONAL] write here instead of robustness/ beside each model"
    )
    group.add_argument("--overwrite", action="store_true", help="[OPTIONAL] replace the results of another run")
