"""Which data margins belong to: they mean nothing for other preprocessing or other labels."""

import os
from typing import Any

from nnunet_ima.errors import UserError
from nnunet_ima.methods.method import Method
from nnunet_ima.nnunet.plans import configuration

NEW_MARGINS = "nnUNet_ima_new_margins"
PREPROCESSING = (
    "data_identifier",
    "preprocessor_name",
    "patch_size",
    "spacing",
    "normalization_schemes",
    "use_mask_for_norm",
    "resampling_fn_data",
    "resampling_fn_data_kwargs",
    "resampling_fn_seg",
    "resampling_fn_seg_kwargs",
)


def fingerprint(plans: dict[str, Any], name: str, dataset_json: dict[str, Any], norm: str) -> dict[str, Any]:
    """What the margins of a training on this configuration depend on, in plain lists, dicts and numbers."""
    chosen = configuration(plans, name)
    return {
        "data set": plans["dataset_name"],
        "preprocessing": {key: _plain(chosen.get(key)) for key in PREPROCESSING},
        "labels": _plain({key: dataset_json.get(key) for key in ("labels", "regions_class_order")}),
        "norm": norm,
    }


def _plain(value: Any) -> Any:
    """Tuples as lists: plans that went through JSON hold no tuples."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def check_fingerprint(stored: dict[str, Any], now: dict[str, Any]) -> None:
    """UserError, naming what differs, if margins made for `stored` do not belong to the data at hand."""
    different = [key for key in now if stored.get(key) != now[key]]
    if different:
        raise UserError(
            f"The margins in the checkpoint belong to another {' and '.join(different)}: continue with the plans and "
            f"data they were made with, or start the margins anew ({NEW_MARGINS}=t)."
        )


def load_margins(method: Method, state: dict[str, Any]) -> None:
    """`method.load_state(state)`, with the way out in the message: the UserError of another split names it."""
    try:
        method.load_state(state)
    except UserError as error:
        raise UserError(f"{str(error).rstrip('.')} ({NEW_MARGINS}=t).") from error


def new_margins_wanted() -> bool:
    """Whether the user asked for new margins in place of those in a checkpoint (an environment variable, as nnU-Net's
    own switches are)."""
    return os.environ.get(NEW_MARGINS, "f").lower() in ("t", "true", "1")
