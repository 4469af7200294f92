"""Several processes: each its own GPU."""

import pytest
import torch

from nnunet_ima.evaluation.running import rank_device


@pytest.mark.parametrize(("rank", "number"), [("0", 0), ("1", 1), ("3", 1)])
def test_each_rank_asks_its_own_gpu(monkeypatch: pytest.MonkeyPatch, rank: str, number: int) -> None:
    """On a machine without CUDA torch's two functions are told what one with two GPUs says."""
    current: list[torch.device] = []
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.set_device", current.append)
    monkeypatch.setenv("LOCAL_RANK", rank)
    assert rank_device("cuda") == torch.device("cuda", number)
    assert current == [torch.device("cuda", number)]
    assert rank_device("cpu") == torch.device("cpu") and len(current) == 1
