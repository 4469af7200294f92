"""The device of the gpu tests: cuda. With NNUNET_IMA_TEST_DEVICE=cpu all but what only CUDA has runs on the CPU, to try
the tests themselves."""

import os

import pytest
import torch

DEVICE = torch.device(os.environ.get("NNUNET_IMA_TEST_DEVICE", "cuda"))
ON_CUDA = DEVICE.type == "cuda"

GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(ON_CUDA and not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
"""For `pytestmark` of each file: a mark, for fixtures of a session would be set up before a fixture could skip."""

cuda_only = pytest.mark.skipif(not ON_CUDA, reason="CUDA only")
