"""The versions that a report names."""

from importlib.metadata import version

import nnunet_ima


def versions(*others: str) -> dict[str, str]:
    """This package's version and those of the installed packages `others`. Its own it knows without being installed,
    as where its source lies on PYTHONPATH."""
    return {"nnunet-ima": nnunet_ima.__version__} | {name: version(name) for name in others}
