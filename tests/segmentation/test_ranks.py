"""Several devices: two real processes under gloo, which train by one method after the other."""

from typing import Any

import pytest
import torch
from torch.multiprocessing.spawn import spawn

from nnunet_ima.methods.margins import MarginStore, Outcomes
from nnunet_ima.nnunet.ranks import gathered
from tests.conftest import Workspace, use_folders
from tests.segmentation import ranks_worker
from tests.segmentation.trainers import LABELS

Rank = dict[str, Any]
WITH_MARGINS = ["IMA", "AMAT", "Edge", "Staircase", "SMD", "IAAT"]


@pytest.fixture(scope="module")
def ranks(workspace: Workspace, in_3d: Workspace, tmp_path_factory: pytest.TempPathFactory) -> list[Rank]:
    """By rank what it saw, by label of the method."""
    with pytest.MonkeyPatch.context() as patch:
        use_folders(workspace, patch)
        patch.setenv("OMP_NUM_THREADS", "1")
        folder = tmp_path_factory.mktemp("ranks")
        spawn(ranks_worker.train_all, (workspace, folder), nprocs=ranks_worker.WORLD)  # type: ignore[no-untyped-call]
        return [torch.load(folder / f"rank{rank}.pth", weights_only=False) for rank in range(ranks_worker.WORLD)]


@pytest.mark.parametrize("label", [*LABELS, ranks_worker.IN_3D])
def test_ranks_stay_alike(ranks: list[Rank], label: str) -> None:
    """Gradients and outcomes are exchanged although only rank 0 has slices that can cross: weights and margins are
    the same on both ranks after each epoch, and move."""
    first, second = (rank[label] for rank in ranks)
    assert "error" not in first and "error" not in second, first.get("error", second.get("error"))
    assert first["batch_size"] == second["batch_size"] == 2
    for name in ("weights", "margins"):
        for own, other in zip(first[name], second[name], strict=True):
            assert torch.isfinite(own).all()
            assert torch.equal(own, other), name
    assert not torch.equal(*first["weights"])
    assert bool(first["margins"]) == (label in (*WITH_MARGINS, ranks_worker.IN_3D))
    for own, other in zip(first["rows"], second["rows"], strict=True):
        assert own | {"seconds": 0} == other | {"seconds": 0}


@pytest.mark.parametrize("label", ["IMA", "Edge"])
def test_margins_are_those_of_one_process_that_saw_all_of_it(ranks: list[Rank], label: str) -> None:
    first, second = (rank[label] for rank in ranks)
    store = MarginStore(first["ids"], first["step"], 60.0)
    assert first["noted"][0][0] and not any(second["noted"][0])
    for epoch in range(ranks_worker.EPOCHS):
        together = Outcomes()
        for rank in (second, first):
            together.merge(Outcomes(*rank["noted"][epoch]))
        store.update(together)
        assert torch.equal(store.margins, first["margins"][epoch])


def test_batch_norm_on_several_devices_is_refused_on_each(ranks: list[Rank]) -> None:
    """nnU-Net makes it wait for the other ranks in each pass, also in those over twins, which only rank 0 has."""
    for rank in ranks:
        error = rank[ranks_worker.WITH_BATCH_NORM]["error"]
        assert error.startswith("IMA cannot train a network with batch normalisation on several GPUs"), error


def test_weight_noise_on_several_devices_is_refused_on_each(ranks: list[Rank]) -> None:
    for rank in ranks:
        error = rank[ranks_worker.WITH_WEIGHT_NOISE]["error"]
        assert error == "awp 0.01 is for one GPU only: use -num_gpus 1, or write plans without --awp."


def test_alone_there_is_nothing_to_gather() -> None:
    assert gathered("own") == ["own"]
