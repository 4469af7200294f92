"""The accelerator, and the data set that the process outside has prepared."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.accelerator.device import Accelerator
from tests.conftest import Workspace


@pytest.fixture
def device() -> Iterator[Accelerator]:
    """Entered; whatever a test does on it, the package makes no float64 there, which Apple's MPS does not have."""
    with Accelerator() as entered:
        yield entered
    assert not {place for place in entered.doubles if place.startswith("nnunet_ima/")}


@pytest.fixture(autouse=True)
def same_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor with native bfloat16 would attack in it, and the accelerator beside it in float32."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The preprocessed data set of the tests outside, results in a folder of our own."""
    if "NNUNET_IMA_WORKSPACE" not in os.environ:
        pytest.skip("set NNUNET_IMA_WORKSPACE to a folder with raw/ and preprocessed/ of the tests' data set")
    own = tmp_path_factory.mktemp("workspace")
    for name in ("raw", "preprocessed"):
        (own / name).symlink_to(Path(os.environ["NNUNET_IMA_WORKSPACE"]) / name)
    (own / "results").mkdir()
    folders = {f"nnUNet_{name}": str(own / name) for name in ("raw", "preprocessed", "results")}
    return Workspace(own, {**os.environ, **folders})
