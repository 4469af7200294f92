"""Severities of equal SSIM: found for every corruption, and said where there are none."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from nnunet_ima.errors import UserError
from nnunet_ima.evaluation.calibration import TARGETS, TOLERANCE, Sample, _told, add_pooled_ssim, amount_of, calibrate
from nnunet_ima.evaluation.corruptions import CORRUPTIONS, NEED_TORCHIO, corruption, has_torchio
from nnunet_ima.evaluation.evaluate import Choice
from nnunet_ima.evaluation.journal import Journal
from nnunet_ima.evaluation.noise_names import CORRUPTION_NAMES
from nnunet_ima.evaluation.noises import Settings, Target
from nnunet_ima.segmentation.cases.intensities import CTScale
from nnunet_ima.segmentation.cases.padding import pad
from nnunet_ima.segmentation.cases.slices import Slice

TARGET = Target(lambda x: x, None, None, {0: CTScale(0.0, 50.0, -1000.0, 1000.0, 4.0)})


def _sample(count: int = 4, side: int = 40) -> Sample:
    """Organs of several sizes: sharp ellipses and fine structure, normalised."""
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij")
    slices = []
    for number in range(count):
        image = ((rows / 0.8) ** 2 + (columns / 0.6) ** 2 < 1).float() + 0.3 * torch.sin(20 * rows + number * columns)
        image += ((rows - 0.2) ** 2 + (columns + 0.1 * number) ** 2 < 0.1).float()
        image = (image - image.mean()) / image.std()
        slices.append(Slice("case", number, image[None], torch.zeros(1, side, side)))
    return Sample(TARGET, slices, [(side, side)] * count, [f"0 case {number}" for number in range(count)])


@pytest.mark.parametrize("name", CORRUPTION_NAMES)
def test_a_severity_has_its_ssim_whatever_the_corruption(name: str) -> None:
    if name in NEED_TORCHIO and not has_torchio():
        pytest.skip("needs TorchIO, an optional extra")
    sample, search, found = _sample(2 if name == "low-dose" else 4, 32), CORRUPTIONS[name].search, []
    for severity in (1, 2):
        ssim = partial(_ssim_at, sample, name, severity)
        amount, kept = amount_of(ssim, TARGETS[severity], *search)
        assert min(search) <= amount <= max(search) and float(f"{amount:.4g}") == amount
        assert kept == ssim(amount)
        found.append((amount, kept))
    # Slices of one size have few resolutions.
    tolerance = 0.06 if name == "low-resolution" else TOLERANCE
    assert [kept for _, kept in found] == [pytest.approx(TARGETS[severity], abs=tolerance) for severity in (1, 2)]
    assert abs(found[0][0] - search[0]) < abs(found[1][0] - search[0])


def _ssim_at(sample: Sample, name: str, severity: int, amount: float) -> float:
    return sample.ssim(corruption(name, 0, {severity: amount}), severity)


def test_what_is_measured_is_the_noise_that_is_evaluated() -> None:
    """The noise of a severity in the sweep comes from its level as a float, and from the slice's own seed."""
    sample, noise, seen = _sample(1), corruption("gaussian"), []

    def make(*told: Any) -> Tensor:
        seen.append(noise.make(*told))
        return seen[-1]

    sample.ssim(replace(noise, make=make), 3)
    item = sample.slices[0]
    assert torch.equal(seen[0], noise(TARGET, item.image[None], item.reference[None], 3.0, ["0 case 0"]))


def test_ssim_is_that_of_the_slice_without_its_padding() -> None:
    bare = _sample(2)
    padded = [Slice(one.case, one.number, pad(one.image, (64, 56)), one.reference) for one in bare.slices]
    sample = Sample(TARGET, padded, bare.shapes, bare.seeds)
    blur = corruption("blur", 0, {1: 0.2})
    assert sample.ssim(blur, 1) == pytest.approx(bare.ssim(blur, 1), abs=0.02)
    noise = corruption("white", 0, {1: 1.0})
    assert sample.ssim(noise, 1) == pytest.approx(bare.ssim(noise, 1), abs=0.02)
    assert sample.ssim(noise, 0) == 1


@pytest.mark.parametrize("search", [(0.01, 100.0), (100.0, 0.01)])
def test_the_amount_of_a_known_curve_is_found(search: tuple[float, float]) -> None:
    """ssim = 1 / (1 + a), or the same of 1 / a: 0.8 at a quarter, or at 4."""
    rising = search[0] < search[1]
    amount, found = amount_of(lambda a: 1 / (1 + (a if rising else 1 / a)), 0.8, *search)
    assert amount == pytest.approx(0.25 if rising else 4, rel=0.01) and found == pytest.approx(0.8, abs=0.001)


def test_what_cannot_be_reached_is_said_and_left_out() -> None:
    best = amount_of(lambda a: 0.7 + 0.3 / (1 + a), 0.65, 0.01, 9.0)
    assert best[0] == 9 and best[1] == pytest.approx(0.73)
    jump = amount_of(lambda a: 1.0 if a < 1 else 0.7, 0.9, 0.01, 100.0)
    assert jump[1] == 1.0
    lines = _told("blur", {1: (0.5, 0.9501), 2: jump, 5: best})
    assert lines[0] == "  blur, Gaussian blur, pixels: 0.5 (SSIM 0.950)"
    assert "blur comes no nearer to SSIM 0.9 than 1.000: severity 2 is left out." in lines[1]
    assert "blur comes no nearer to SSIM 0.65 than 0.730: severity 5 is left out." in lines[2]


def test_amounts_in_the_journal_are_not_looked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nnunet_ima.evaluation.calibration.sample_of", lambda subject: _sample(2))
    subject: Any = SimpleNamespace(settings=Settings(seed=3))
    choice = Choice((1.0,), corruptions=("gaussian", "blur"))
    found = calibrate(subject, choice, Journal(tmp_path, {}))
    assert list(found) == ["gaussian", "blur"] and list(found["gaussian"]) == [1, 2, 3, 4, 5]
    assert list(found["gaussian"].values()) == sorted(found["gaussian"].values())
    first = capsys.readouterr().out
    monkeypatch.setattr("nnunet_ima.evaluation.calibration.amount_of", None)
    assert calibrate(subject, choice, Journal(tmp_path, {})) == found
    assert capsys.readouterr().out == first


def test_slices_that_cannot_be_measured_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = Sample(TARGET, [], [], [])
    monkeypatch.setattr("nnunet_ima.evaluation.calibration.sample_of", lambda subject: empty)
    subject: Any = SimpleNamespace(settings=Settings())
    with pytest.raises(UserError, match="--calibrated: no slice has 16 pixels along both sides"):
        calibrate(subject, Choice((1.0,), corruptions=("blur",)), Journal(tmp_path, {}))


def test_of_several_folds_ssim_is_the_mean_over_slices() -> None:
    def part(ssim: float | None, slices: int) -> dict[str, Any]:
        return {"slices": slices, "corruptions": {"blur": {"levels": [{"ssim": ssim}]}}}

    summary: Any = {"corruptions": {"blur": {"levels": [{"ssim": None}]}}}
    add_pooled_ssim(summary, [part(0.9, 10), part(0.6, 30), part(None, 5)])
    assert summary["corruptions"]["blur"]["levels"][0]["ssim"] == 0.675
    add_pooled_ssim(summary, [part(None, 5)])
    assert summary["corruptions"]["blur"]["levels"][0]["ssim"] is None
