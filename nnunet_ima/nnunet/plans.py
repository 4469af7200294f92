"""Plans files, read at the door."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnunet_ima.errors import UserError


def read_plans(path: Path) -> dict[str, Any]:
    """The content of a plans file. UserError if it is missing or damaged."""
    if not path.is_file():
        raise UserError(f"{path} does not exist: run nnUNetv2_plan_and_preprocess -c 2d first, or choose -p and -c.")
    try:
        content = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid JSON ({error}): plan the data set again.") from error
    if not isinstance(content, dict) or "configurations" not in content:
        raise UserError(f"{path} holds no configurations: plan the data set again.")
    return content


def configuration(plans: dict[str, Any], name: str) -> dict[str, Any]:
    """A configuration with what it inherits. UserError if there is none of this name."""
    configurations = plans["configurations"]
    if name not in configurations:
        raise UserError(f"-c {name}: the plans have no such configuration, only {', '.join(configurations) or 'none'}.")
    merged: dict[str, Any] = dict(configurations[name])
    while "inherits_from" in merged:
        parent = merged.pop("inherits_from")
        merged = {**configurations[parent], **merged}
    return merged


def is_2d(plans: dict[str, Any], name: str) -> bool:
    """Whether the configuration is one of slices."""
    chosen = configuration(plans, name)
    return len(chosen["patch_size"]) == 2 and not chosen.get("previous_stage")


def is_second_stage(plans: dict[str, Any], name: str) -> bool:
    """Whether the configuration's input holds the segmentation of another one, as in nnU-Net's cascade."""
    return bool(configuration(plans, name).get("previous_stage"))


def set_features(plans: dict[str, Any], name: str, features: Sequence[int]) -> None:
    """Give the stages of a configuration's network other numbers of features. Fewer numbers than stages leave out the
    deepest stages. UserError for a single number and for more than there are stages."""
    architecture = copy.deepcopy(configuration(plans, name)["architecture"])
    settings = architecture["arch_kwargs"]
    usual = settings["features_per_stage"]
    if not 2 <= len(features) <= len(usual):
        raise UserError(
            f"--features {','.join(map(str, features))}: the network has {len(usual)} stages: give 2 to {len(usual)} "
            f"numbers in place of {','.join(map(str, usual))}."
        )
    left_out = len(usual) - len(features)
    for key, value in settings.items():
        # From the top down, of the encoder one value for each stage, of the decoder one less.
        if isinstance(value, list) and len(value) in (len(usual), len(usual) - 1):
            settings[key] = value[: len(value) - left_out]
    settings["n_stages"], settings["features_per_stage"] = len(features), list(features)
    plans["configurations"][name]["architecture"] = architecture


def check_dataset(plans: dict[str, Any], dataset: str) -> None:
    """UserError for plans copied from another data set: nnU-Net would go by the one they name."""
    if plans["dataset_name"] != dataset:
        raise UserError(
            f"The plans {plans['plans_name']} are those of {plans['dataset_name']}, not of {dataset}: plan it with "
            "nnUNetv2_plan_and_preprocess, or take plans over with nnUNetv2_move_plans_between_datasets."
        )
