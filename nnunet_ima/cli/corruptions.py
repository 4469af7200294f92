"""Which corruptions are made: those that are installed and fit the images."""

from collections.abc import Sequence
from typing import Any

from nnunet_ima.errors import UserError


def check_installed(names: Sequence[str]) -> None:
    """UserError for corruptions that are not installed."""
    from nnunet_ima.evaluation.corruptions import NEED_TORCHIO, available

    missing = [name for name in names if name not in (*available(), "all")]
    if missing:
        raise UserError(
            f"--corruptions {','.join(missing)}: {', '.join(NEED_TORCHIO)} need TorchIO; install it with pip install "
            "'nnunet-ima[corruptions]'."
        )


def chosen_corruptions(names: Sequence[str], models: Sequence[Any]) -> tuple[str, ...]:
    """Those named, or all that can be made of the images of every model. UserError where HU are needed and unknown."""
    from nnunet_ima.evaluation.corruptions import NEED_CT, available

    without = [model for model in models if not _knows_hu(model)]
    if tuple(names) == ("all",):
        return tuple(available(ct=not without))
    impossible = [name for name in names if name in NEED_CT]
    if without and impossible:
        raise UserError(
            f"--corruptions {','.join(impossible)}: the plans of {without[0]} normalise no channel as CT, so its "
            "Hounsfield units are unknown; take poisson instead."
        )
    return tuple(names)


def _knows_hu(model: Any) -> bool:
    from nnunet_ima.nnunet.plans import configuration, read_plans
    from nnunet_ima.segmentation.cases.intensities import CT

    plans = read_plans(model.folder / "plans.json")
    return CT in configuration(plans, model.configuration)["normalization_schemes"]
