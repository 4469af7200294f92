"""Lets `nnUNetv2_train D4 ...` mean data set 4, as papers write it."""

import builtins
import re
import sys
from typing import Any

from nnunet_ima.errors import UserError


def parse_identifier(text: Any) -> int:
    """`D4`, `d4` or `4` -> 4; anything else as the builtin `int` takes it, ValueError included."""
    match = re.fullmatch(r"[dD](\d+)", text) if isinstance(text, str) else None
    return builtins.int(match.group(1) if match else text)


def accept_letter_d() -> None:
    """Make nnU-Net's training command take `D4`.

    nnU-Net imports the trainer before it reads the data set's name, and reads it with `int(...)` in
    `nnunetv2.run.run_training`. A function of that name in the module is used in place of the builtin, there only.
    An nnU-Net that reads names otherwise still trains by number.
    """
    module = sys.modules.get("nnunetv2.run.run_training")
    if module is not None and hasattr(module, "get_trainer_from_args"):
        module.int = parse_identifier  # type: ignore[attr-defined]


def dataset_name(identifier: str) -> str:
    """`D4`, `4` or `Dataset004_Hippocampus` -> `Dataset004_Hippocampus`. UserError if there is no such data set."""
    from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets

    full = re.fullmatch(r"Dataset(\d{3})_.+", identifier)
    try:
        number = parse_identifier(full.group(1) if full else identifier)
    except ValueError as error:
        raise UserError(f"-d must be like 4, D4 or Dataset004_Hippocampus, got {identifier!r}.") from error
    found = [str(name) for name in find_candidate_datasets(number) if not full or name == identifier]
    if len(found) > 1:
        raise UserError(f"-d {identifier}: several data sets have this number; give the full name: {', '.join(found)}.")
    if not found:
        raise UserError(
            f"-d {identifier}: there is no data set of this {'name' if full else 'number'} in nnUNet_raw, "
            "nnUNet_preprocessed and nnUNet_results; check these variables and -d."
        )
    return found[0]
