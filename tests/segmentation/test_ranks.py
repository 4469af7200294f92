"""Several devices: two real processes under gloo."""

from typing import Any

import pytest
import torch
from torch.multiprocessing.spawn import spawn

from nnunet_ima.margins import MarginStore, Outcomes
from nnunet_ima.segmentation.ranks import gathered
from tests.conftest import Workspace
from tests.segmentation import ranks_worker


@pytest.fixture(scope="module")
def ranks(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in workspace.environment.items():
            if name.startswith("nnUNet_"):
                patch.setenv(name, value)
        patch.setenv("nnUNet_n_proc_DA", "0")
        patch.setenv("OMP_NUM_THREADS", "1")
        folder = tmp_path_factory.mktemp("ranks")
        spawn(ranks_worker.train, (workspace, folder), nprocs=ranks_worker.WORLD)  # type: ignore[no-untyped-call]
        return [torch.load(folder / f"rank{rank}.pth", weights_only=False) for rank in range(ranks_worker.WORLD)]


def test_margins_are_the_same_on_all_ranks_after_each_epoch(ranks: list[dict[str, Any]]) -> None:
    first, second = ranks
    for own, other in zip(first["margins"], second["margins"], strict=True):
        assert torch.equal(own, other)
    assert not torch.equal(first["margins"][0], first["margins"][1])
    assert first["batch_size"] == second["batch_size"] == 2


def test_margins_are_those_of_one_process_that_saw_all_of_it(ranks: list[dict[str, Any]]) -> None:
    store = MarginStore(ranks[0]["ids"], ranks[0]["step"], 60.0)
    assert ranks[0]["noted"][0][0] and not any(ranks[1]["noted"][0])
    for epoch in range(ranks_worker.EPOCHS):
        together = Outcomes()
        for rank in (1, 0):
            together.merge(Outcomes(*ranks[rank]["noted"][epoch]))
        store.update(together)
        assert torch.equal(store.margins, ranks[0]["margins"][epoch])


def test_ranks_that_attack_and_ranks_that_do_not_take_the_same_steps(ranks: list[dict[str, Any]]) -> None:
    """Gradients are exchanged although only rank 0 had twins: the weights stay the same."""
    for name, weight in ranks[0]["weights"].items():
        assert torch.equal(weight, ranks[1]["weights"][name]), name
    for own, other in zip(ranks[0]["rows"], ranks[1]["rows"], strict=True):
        assert own | {"seconds": 0} == other | {"seconds": 0}


def test_alone_there_is_nothing_to_gather() -> None:
    assert gathered("own") == ["own"]
