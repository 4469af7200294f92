"""nnU-Net on drawn slices or volumes, for measurements that need no data set: plans by nnU-Net's own planner,
preprocessed cases, and a trainer with something to attack.

An untrained network is right on no slice. `warm_up` trains it for a moment on discs that are easy to find, by nnU-Net's
own steps, then sets the learning rate to 0, so that all steps after it meet the same network. `calibrate` sets the
threshold so that the share CORRECT of the slices is correct, and the margins, by the distance of each slice from its
boundary, so that the share CROSSED of those crosses: as on D4 in docs/results, not as after so little training.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from nnunet_ima.segmentation.blocks import Blocks, SampleId

CORRECT, CROSSED = 0.79, 0.64
CASES = 5  # the last one is held out


@dataclass(frozen=True)
class Shape:
    """patch: (H, W), or (Z, H, W) of 3d_fullres. batch: samples of a step. narrow: the features of nnU-Net's plans are
    divided by it."""

    patch: tuple[int, ...]
    batch: int
    narrow: int = 1

    def __str__(self) -> str:
        return "x".join(map(str, (*self.patch, self.batch)))

    @property
    def configuration(self) -> str:
        return "2d" if len(self.patch) == 2 else "3d_fullres"

    @property
    def dataset(self) -> str:
        return f"Dataset999_Synthetic{self}"


D4, LARGE = Shape((56, 40), 366), Shape((320, 256), 40)
VOLUME = Shape((128, 128, 128), 2)
TINY, TINY_VOLUME = Shape((16, 16), 6, narrow=8), Shape((16, 16, 16), 2, narrow=8)
PRECISIONS = ("float32", "AMP", "AMP + compile")


@contextmanager
def nnunet_in(folder: Path) -> Iterator[None]:
    """nnU-Net's three folders within `folder`, data loaded in this process; the environment is put back afterwards."""
    folders = {f"nnUNet_{name}": folder / name for name in ("raw", "preprocessed", "results")}
    for path in folders.values():
        path.mkdir(exist_ok=True)
    variables = {name: str(path) for name, path in folders.items()}
    with mock.patch.dict(os.environ, variables | {"nnUNet_n_proc_DA": "0", "nnUNet_compile": "f"}):
        yield


@dataclass
class Pool:
    """All training samples: ids as the data set names them, x (S, 1, H, W) float32, y (S, 1, H, W) int16; of volumes
    (S, 1, Z, H, W)."""

    ids: list[SampleId]
    x: Tensor
    y: Tensor

    def batch(self, rows: Sequence[int], scales: Sequence[Sequence[float]]) -> dict[str, Any]:
        """As nnU-Net's loader gives it: references at each resolution of the deep supervision, slices by name."""
        y = self.y[rows]
        strides = [[round(1 / scale) for scale in each] for each in scales]
        return {
            "data": self.x[rows],
            "target": [y[_every(each)].contiguous() for each in strides],
            "keys": np.array([self.ids[row][0] for row in rows]),
            "blocks": np.array([self.ids[row][1:] for row in rows]),
        }


def _every(strides: Sequence[int]) -> tuple[Any, ...]:
    """What takes one pixel in so many along the last axes."""
    return ..., *(slice(None, None, stride) for stride in strides)


def draw(count: int, patch: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Images (count, *patch) float32 of noise and a disc or ball in two halves, one half brighter, and their labels 0
    to 2."""
    rng = np.random.default_rng(seed)
    places = np.indices(patch)
    labels = np.zeros((count, *patch), np.int16)
    for label in labels:
        centre = [side * rng.uniform(0.35, 0.65) for side in patch]
        distance = sum((place - middle) ** 2 for place, middle in zip(places, centre, strict=True))
        inside = distance < (min(patch) * rng.uniform(0.2, 0.33)) ** 2
        label[inside] = 1 + (places[-1] > centre[-1])[inside]
    images = np.array([-0.4, 0.8, 2.0])[labels] + rng.normal(0, 0.5, labels.shape)
    return images.astype(np.float32), labels


def write_dataset(shape: Shape) -> Pool:
    """A planned and preprocessed data set in nnU-Net's folders, of twice as many slices as a batch takes; volumes are a
    case each."""
    volumes = len(shape.patch) == 3
    per_case = 1 if volumes else -(-2 * shape.batch // (CASES - 1))
    names = [f"case{number}" for number in range(CASES)]
    _plan(shape, names)
    parts = [draw(per_case, shape.patch, seed) for seed in range(CASES)]
    for name, (images, labels) in zip(names, parts, strict=True):
        _save(shape, name, images if volumes else images[None], labels if volumes else labels[None])
    middle = Blocks.of(shape.patch).number([side // 2 for side in shape.patch], shape.patch)
    numbers = [middle] if volumes else [(number,) for number in range(per_case)]
    ids = [(name, *number) for name in names[:-1] for number in numbers]
    x, y = (np.concatenate([part[which] for part in parts[:-1]])[:, None] for which in (0, 1))
    return Pool(ids, torch.from_numpy(x), torch.from_numpy(y))


def _plan(shape: Shape, names: list[str]) -> None:
    """The plans file, by nnU-Net's own planner from a fingerprint, which needs no images."""
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
    from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw

    raw, preprocessed = (Path(str(folder)) / shape.dataset for folder in (nnUNet_raw, nnUNet_preprocessed))
    raw.mkdir(exist_ok=True)
    preprocessed.mkdir(exist_ok=True)
    dataset = {
        "channel_names": {"0": "noNorm"},
        "labels": {"background": 0, "left": 1, "right": 2},
        "numTraining": CASES,
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "SimpleITKIO",
        "dataset": {name: {"images": [f"{name}.nii.gz"], "label": f"{name}.nii.gz"} for name in names},
    }
    (raw / "dataset.json").write_text(json.dumps(dataset))
    fingerprint = {
        "spacings": [[1.0, 1.0, 1.0]] * CASES,
        # Of one slice nnU-Net plans no 3D configuration.
        "shapes_after_crop": [[1] * (3 - len(shape.patch)) + list(shape.patch)] * CASES,
        "foreground_intensity_properties_per_channel": {},
        "median_relative_size_after_cropping": 1.0,
    }
    (preprocessed / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
    (preprocessed / "splits_final.json").write_text(json.dumps([{"train": names[:-1], "val": names[-1:]}]))
    # The planner asks for as many threads as there are loading processes, of which there are none.
    with mock.patch.dict(os.environ, {"nnUNet_n_proc_DA": "1"}):
        ExperimentPlanner(shape.dataset).plan_experiment()
    file = preprocessed / "nnUNetPlans.json"
    plans = json.loads(file.read_text())
    configuration = plans["configurations"][shape.configuration]
    assert configuration["patch_size"] == list(shape.patch), configuration["patch_size"]
    # nnU-Net's loader is not asked for batches: they are drawn from the pool.
    configuration["batch_size"] = 2
    network = configuration["architecture"]["arch_kwargs"]
    network["features_per_stage"] = [features // shape.narrow for features in network["features_per_stage"]]
    file.write_text(json.dumps(plans))


def _save(shape: Shape, name: str, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> None:
    """One preprocessed case, (1, S, H, W) or (1, Z, H, W), in nnU-Net's format."""
    from nnunetv2.paths import nnUNet_preprocessed
    from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2

    folder = Path(str(nnUNet_preprocessed)) / shape.dataset / f"nnUNetPlans_{shape.configuration}"
    folder.mkdir(exist_ok=True)
    blocks, chunks = comp_blosc2_params(images.shape, shape.patch)
    properties = {"class_locations": {label: np.argwhere(labels == label)[::7] for label in (1, 2)}}
    nnUNetDatasetBlosc2.save_case(images, labels, properties, str(folder / name), chunks=chunks, blocks=blocks)


def build(shape: Shape, device: torch.device, kind: Any = None, **block: Any) -> Any:
    """A trainer of `kind` (default: IMA's) that is ready for its first step; block: of the plans' "ima" block."""
    from nnunetv2.paths import nnUNet_preprocessed

    from nnunet_ima.segmentation.trainer import nnUNetTrainerIMA

    folder = Path(str(nnUNet_preprocessed)) / shape.dataset
    plans = json.loads((folder / "nnUNetPlans.json").read_text())
    # No margin shall end at a largest one.
    plans |= {"continue_training": False, "ima": {"noise_max": 1e6} | block}
    torch.manual_seed(0)
    dataset_json = json.loads((folder / "dataset.json").read_text())
    trainer = (kind or nnUNetTrainerIMA)(plans, shape.configuration, 0, dataset_json, device)
    trainer.initialize()
    trainer.on_train_start()
    trainer.ima_lock.release()
    trainer.on_train_epoch_start()
    return trainer


def warm_up(trainer: Any, pool: Pool, size: int, most: int = 300) -> None:
    """Plain nnU-Net steps until the slices can be told apart by their Dice. RuntimeError if they never can."""
    from nnunet_ima.segmentation.plain_trainer import nnUNetTrainerPlain

    rng = np.random.default_rng(0)
    scales = trainer._get_deep_supervision_scales()
    for number in range(most):
        nnUNetTrainerPlain.train_step(trainer, pool.batch(rng.permutation(len(pool.ids))[:size].tolist(), scales))
        if number % 20 == 19 and _dice(trainer, pool, size).quantile(1 - CORRECT) > 0.3:
            break
    else:
        raise RuntimeError(f"After {most} steps the network finds no discs: there is nothing to attack.")
    for group in trainer.optimizer.param_groups:
        group["lr"] = 0.0


def calibrate(trainer: Any, pool: Pool, size: int) -> tuple[Tensor, Tensor]:
    """Threshold and margins by which a realistic share of the slices is correct, and crosses (see the module); which
    slices should cross, and which should hold, bool (S,)."""
    dice = _dice(trainer, pool, size)
    trainer.ima_objective.threshold = dice.quantile(1 - CORRECT).item()
    reach = 0.5 * pool.x[0].numel() ** 0.5
    distance = torch.cat([_distances(trainer, pool, rows, reach) for rows in _chunks(len(pool.ids), size)])
    # Spread evenly: margins that take in the boundary, and margins that end before it.
    crossing = torch.arange(len(distance)) * CROSSED % 1 < CROSSED
    margins = distance * torch.where(crossing, 1.5, 0.5)
    rows = [trainer.ima.store.ids.index(one) for one in pool.ids]
    trainer.ima.store.margins[rows] = torch.where(distance > 0, margins, torch.full_like(margins, reach / 100))
    return crossing & (distance > 0), ~crossing & (distance > 0)


def _chunks(count: int, size: int) -> list[list[int]]:
    return [list(range(start, min(start + size, count))) for start in range(0, count, size)]


@contextmanager
def attacked(trainer: Any, largest: int) -> Iterator[Any]:
    """The network as an attack within a training step meets it, mixed precision included."""
    with (
        torch.autocast(trainer.device.type, enabled=trainer.grad_scaler is not None),
        trainer._open_attack(largest) as network,
    ):
        yield network


def on_device(trainer: Any, pool: Pool, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Images and references of slices, where the trainer's network is."""
    return pool.x[rows].to(trainer.device), pool.y[rows].to(trainer.device)


def _dice(trainer: Any, pool: Pool, size: int) -> Tensor:
    """Dice of each slice, (S,) on the CPU; 0 where it has none."""
    found = []
    with attacked(trainer, size) as network, torch.no_grad():
        for rows in _chunks(len(pool.ids), size):
            x, y = on_device(trainer, pool, rows)
            found.append(trainer.ima_objective.slice_dice(network(x), y).nan_to_num(0.0).cpu())
    return torch.cat(found)


def _distances(trainer: Any, pool: Pool, rows: Sequence[int], reach: float) -> Tensor:
    """How far from its boundary each slice is, (N,) float64 on the CPU; 0 where none was found within `reach`."""
    from nnunet_ima.attacks import bpgd

    x, y = on_device(trainer, pool, rows)
    with attacked(trainer, len(rows)) as network:
        return bpgd(network, x, y, reach, objective=trainer.ima_objective).distance.double().cpu()
