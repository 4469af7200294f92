"""The other way to make nnU-Net find the trainers: one small file in nnU-Net's own folder, for those who want no
environment variable."""

import importlib.util
from pathlib import Path

from nnunet_ima.errors import UserError
from nnunet_ima.files import replacing

NAME = "nnunet_ima_trainers.py"
MARKER = "# Written by nnunet-ima-setup --install; removed by nnunet-ima-setup --uninstall."
# nnU-Net imports every module of this folder until it finds a trainer: whatever is wrong with nnunet_ima, or if it is
# gone, must not keep it from finding its own.
SHIM = f"""{MARKER}
try:
    from nnunet_ima.segmentation.discovery.nnunet_ima_trainers import *  # noqa: F403
    from nnunet_ima.segmentation.discovery.nnunet_ima_trainers import __getattr__  # noqa: F401
except ModuleNotFoundError as error:
    if error.name is None or error.name.split(".")[0] != "nnunet_ima":
        print(f"nnunet-ima cannot be used: {{error}}")
except Exception as error:
    print(f"nnunet-ima cannot be used: {{error}}")
"""


def shim_file() -> Path:
    """Where the shim is or would be. UserError if nnU-Net is not installed."""
    spec = importlib.util.find_spec("nnunetv2")
    if spec is None or spec.origin is None:
        raise UserError("nnU-Net is not installed in this environment: pip install nnunetv2, then try again.")
    return Path(spec.origin).parent / "training" / "nnUNetTrainer" / "variants" / NAME


def is_installed() -> bool:
    file = shim_file()
    return file.is_file() and file.read_text().startswith(MARKER)


def install() -> Path:
    """Write the shim; the same again where it is already. UserError where nothing can be written."""
    file = shim_file()
    if file.exists() and not is_installed():
        raise UserError(f"{file} exists and does not belong to nnunet-ima: move it away first.")
    try:
        with replacing(file) as temporary:
            temporary.write_text(SHIM)
    except OSError as error:
        raise UserError(
            f"{file.parent} cannot be written to ({error.strerror}): use the environment variable instead, "
            'eval "$(nnunet-ima-setup)".'
        ) from error
    return file


def uninstall() -> Path | None:
    """Remove the shim; its former place, or None if there was none."""
    if not is_installed():
        return None
    file = shim_file()
    try:
        file.unlink()
    except OSError as error:
        raise UserError(f"{file} cannot be removed ({error.strerror}): remove it by hand.") from error
    return file
