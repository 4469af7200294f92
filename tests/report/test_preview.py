"""Noise levels by looking: what is drawn, and what it means in the scanner's units."""

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ima.cli.plan import plan
from nnunet_ima.errors import UserError
from nnunet_ima.report.preview import _magnification, _planes, _samples, _shown, preview
from nnunet_ima.segmentation.cases.intensities import _slope, original_units, raw_files, root_mean_square
from nnunet_ima.segmentation.plain_trainer import nnUNetTrainerPlain
from tests.conftest import DATASET, Workspace
from tests.segmentation.trainers import build


def _dataset_json(workspace: Workspace) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((workspace.preprocessed / "dataset.json").read_text())
    return content


def _labels(workspace: Workspace, configuration: str = "2d") -> Any:
    manager = PlansManager(workspace.plans())
    return SimpleNamespace(
        label_manager=manager.get_label_manager(_dataset_json(workspace)),
        configuration_manager=manager.get_configuration(configuration),
    )


def test_units_are_those_by_which_nnunet_divided(in_process: Workspace) -> None:
    """Difference of the extremes of the raw image over that of the preprocessed one, which is not resampled here."""
    manager = PlansManager(in_process.plans())
    configuration = manager.get_configuration("2d")
    units = original_units(manager, configuration, *raw_files(DATASET, _dataset_json(in_process), "phantom_001"))
    folder = str(in_process.preprocessed / configuration.data_identifier)
    normalised = np.asarray(infer_dataset_class(folder)(folder, ["phantom_001"]).load_case("phantom_001")[0][:])
    raw, _ = manager.image_reader_writer_class().read_images(
        [str(in_process.folder / "raw" / in_process.preprocessed.name / "imagesTr" / "phantom_001_0000.nii.gz")]
    )
    assert normalised.shape == raw.shape
    assert units == [pytest.approx(np.ptp(raw) / np.ptp(normalised), rel=1e-3)]


def test_units_are_right_where_nnunet_normalises_within_a_mask(in_process: Workspace, tmp_path: Path) -> None:
    """A corner of zeros lies outside of the mask, but not the part of it that has a label; by nnU-Net's own
    preprocessing of these files."""
    folder = tmp_path / "raw" / in_process.preprocessed.name
    source = in_process.folder / "raw" / in_process.preprocessed.name
    shutil.copytree(source, folder)
    image, label = folder / "imagesTr" / "phantom_001_0000.nii.gz", folder / "labelsTr" / "phantom_001.nii.gz"
    _fill_corner(image, 20, 0)
    _fill_corner(label, 6, 1)
    plans = in_process.plans()
    plans["configurations"]["2d"]["use_mask_for_norm"] = [True]
    manager = PlansManager(plans)
    configuration = manager.get_configuration("2d")
    data, seg, _ = configuration.preprocessor_class(verbose=False).run_case(
        [str(image)], str(label), manager, configuration, _dataset_json(in_process)
    )
    raw = np.asarray(nibabel.load(image).dataobj)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_raw", str(tmp_path / "raw"))
        units = original_units(manager, configuration, *raw_files(DATASET, _dataset_json(in_process), "phantom_001"))
    inside = data[0][seg[0] >= 0]
    assert units == [pytest.approx(np.ptp(raw) / np.ptp(inside), rel=1e-3)]


def _fill_corner(file: Path, side: int, value: int) -> None:
    """Set the corner of every slice to `value`."""
    image = nibabel.load(file)
    voxels = np.asarray(image.dataobj).copy()
    voxels[:side, :side] = value
    nibabel.save(nibabel.Nifti1Image(voxels, image.affine), file)


def test_units_are_unknown_without_the_raw_images(in_process: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_raw", str(in_process.folder / "nowhere"))
    manager = PlansManager(in_process.plans())
    assert raw_files(DATASET, _dataset_json(in_process), "x") == (None, None)
    assert math.isnan(original_units(manager, manager.get_configuration("2d"), None, None)[0])


def test_clipped_ends_do_not_count_and_curves_have_no_unit() -> None:
    raw = np.linspace(-1000, 3000, 500).astype(np.float32)
    clipped = (np.clip(raw, -200, 400) - 50) / 80
    assert _slope(raw, clipped) == pytest.approx(80, rel=1e-4)
    assert math.isnan(_slope(raw, np.sqrt(raw + 1000)))
    assert math.isnan(_slope(raw, np.zeros_like(raw)))


def test_root_mean_square_of_a_level() -> None:
    assert root_mean_square(15, (1, 56, 40)) == pytest.approx(0.317, abs=5e-4)
    assert root_mean_square(2, (4, 2, 2)) == 0.5


def test_noise_has_exactly_the_level_it_is_shown_for(in_process: Workspace) -> None:
    """With a network, untrained: white and adversarial noise, its segmentation and Dice for each."""
    trainer = build(in_process, nnUNetTrainerPlain, {})
    trainer.set_deep_supervision_enabled(False)
    labels = _labels(in_process)
    item = _samples(labels, in_process.preprocessed / labels.configuration_manager.data_identifier, 1)[0]
    predictor = SimpleNamespace(network=trainer.network.eval(), **vars(labels))
    shown = _shown(item, 1.0, [2.0, 8.0], predictor)
    adversarial, white = shown.noisy
    for level, own, other in zip([2.0, 8.0], white.images, adversarial.images, strict=True):
        assert (own - item.image).norm().item() == pytest.approx(level, rel=1e-4)
        assert (other - item.image).norm().item() <= level * (1 + 1e-4)
    assert len(shown.clean.dice) == 1 and len(white.dice) == len(adversarial.dice) == 2
    assert adversarial.dice[1] <= white.dice[1]


def test_slices_come_from_different_cases_and_show_the_most_foreground(in_process: Workspace) -> None:
    labels = _labels(in_process)
    folder = in_process.preprocessed / labels.configuration_manager.data_identifier
    found = _samples(labels, folder, 3)
    assert len({item.case for item in found}) == 3
    dataset = infer_dataset_class(str(folder))(str(folder), [found[0].case])
    sizes = (np.asarray(dataset.load_case(found[0].case)[1][:])[0] > 0).sum((1, 2))
    assert sizes[found[0].number] == sizes.max()


def test_in_3d_a_patch_is_shown_in_three_planes(in_3d: Workspace, in_process: Workspace) -> None:
    labels = _labels(in_process, "3d_fullres")
    folder = in_process.preprocessed / labels.configuration_manager.data_identifier
    (item,) = _samples(labels, folder, 3)
    assert item.unit == "patch" and item.shape[1:] == tuple(labels.configuration_manager.patch_size)
    whole = _shown(item, 1.0, [5.0], None)
    assert (whole.noisy[0].images[0] - item.image).norm().item() == pytest.approx(5, rel=1e-4)
    foreground = (item.reference[0] > 0).numpy()
    planes = _planes(whole, foreground)
    for axis, shown in enumerate(planes):
        number = int(shown.title.split()[-4])
        shape = [side for other, side in enumerate(item.shape[1:]) if other != axis]
        assert list(shown.clean.images[0].shape[1:]) == list(shown.noisy[0].images[0].shape[1:]) == shape
        assert np.array_equal(shown.clean.images[0][0], np.take(item.image[0].numpy(), number, axis))
        assert np.take(foreground, number, axis).sum() == max(plane.sum() for plane in np.moveaxis(foreground, axis, 0))


@pytest.mark.parametrize(("rms", "factor"), [(0.02, 20), (0.1, 5), (0.3, 2), (5.0, 1)])
def test_differences_are_magnified_by_round_factors(rms: float, factor: float) -> None:
    assert _magnification(rms, 4.0) == factor


def test_other_file_formats_are_refused(in_process: Workspace, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must end in one of \.png, \.pdf, \.svg"):
        preview(in_process.plans(), "2d", _dataset_json(in_process), in_process.preprocessed, [1], tmp_path / "a.gif")


def test_the_command_draws_and_then_writes_the_plans(in_process: Workspace, tmp_path: Path) -> None:
    target = in_process.preprocessed / "nnUNetPlansSeen.json"
    told = ["-d", "902", "-o", target.stem, "--noise", "1,4", "--preview"]
    with pytest.raises(UserError, match=r"--preview a\.gif"):
        plan([*told, "a.gif"])
    assert not target.exists()
    plan([*told, str(tmp_path / "seen.png")])
    assert (tmp_path / "seen.png").read_bytes().startswith(b"\x89PNG")
    target.unlink()


def test_a_model_that_is_not_there_is_named(in_process: Workspace, tmp_path: Path) -> None:
    told = ["-d", "902", "-o", "nnUNetPlansNever", "--preview", str(tmp_path / "b.png"), "-device", "cpu"]
    with pytest.raises(UserError, match="-tr nnUNetTrainerNobody"):
        plan([*told, "-tr", "nnUNetTrainerNobody"])
    assert not (in_process.preprocessed / "nnUNetPlansNever.json").exists() and not list(tmp_path.iterdir())
