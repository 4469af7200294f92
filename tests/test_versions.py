"""Reports are written without an installation, too: the source on PYTHONPATH is enough."""

import subprocess
import sys
from pathlib import Path

import numpy

import nnunet_ima
from nnunet_ima.versions import versions

HIDDEN = """
import importlib.metadata as metadata
real = metadata.distribution
def distribution(name):
    if name == "nnunet-ima":
        raise metadata.PackageNotFoundError(name)
    return real(name)
metadata.distribution = distribution
import nnunet_ima.cli.classify, nnunet_ima.cli.eval, nnunet_ima.cli.check_predictions
from nnunet_ima.versions import versions
print(versions("torch")["nnunet-ima"])
"""


def test_the_versions_are_those_of_the_packages() -> None:
    assert versions("numpy") == {"nnunet-ima": nnunet_ima.__version__, "numpy": numpy.__version__}


def test_the_package_knows_its_version_without_being_installed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HIDDEN], capture_output=True, text=True, cwd=Path(__file__).parents[1], check=True
    )
    assert done.stdout.strip() == nnunet_ima.__version__
