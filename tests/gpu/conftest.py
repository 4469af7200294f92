"""Drawn slices and nnU-Net trainers for them, as `scripts/gpu_check` has them."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from synthetic import Pool, Shape, nnunet_in, write_dataset

SHAPE = Shape((16, 16), 8, narrow=4)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    """nnU-Net's folders with a planned and preprocessed data set of drawn slices."""
    with nnunet_in(tmp_path_factory.mktemp("drawn")):
        yield write_dataset(SHAPE)


@pytest.fixture
def exact() -> Iterator[None]:
    """float32 that is float32: CUDA's convolutions round to TF32 by default."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
