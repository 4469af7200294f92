"""The answer in sentences, from results made by hand."""

from collections.abc import Sequence
from typing import Any

import pytest

from nnunet_ima.classification.answer import answer as classifiers_answer
from nnunet_ima.metrics.comparison import compare
from nnunet_ima.report.answer import answer, first_below

LEVELS = (0.0, 5.0, 10.0)


def _levels(left: Sequence[float], right: Sequence[float], unit: bool) -> list[dict[str, Any]]:
    return [
        {
            "noise": level,
            "rms_per_pixel": level / 100,
            "rms_in_units": level * 2 if unit else None,
            "adi": (a + b) / 2,
            "adi_interval": [(a + b) / 2 - 4, (a + b) / 2 + 4],
            "adi_noise": 88.0,
            "tvdi_per_class": {"left": a, "right": b},
        }
        for level, a, b in zip(LEVELS, left, right, strict=True)
    ]


def _model(
    left: Sequence[float], right: Sequence[float], name: str = "nnUNetTrainerIMA", cases: int = 6, unit: bool = True
) -> dict[str, Any]:
    mean = [(a + b) / 2 for a, b in zip(left, right, strict=True)]
    per_case = {f"case{number}": [value + number for value in mean] for number in range(cases)}
    return {
        "trainer": name,
        "plans": "nnUNetPlans",
        "attack": "pgd",
        "norm": "l2",
        "unit": "HU" if unit else None,
        "classes": ["left", "right"],
        "levels": _levels(left, right, unit),
        "others": {},
        "adi_per_case": per_case,
        "dice_per_case": {"left": per_case, "right": per_case},
    }


def _answer(*models: dict[str, Any]) -> list[str]:
    return answer({"models": list(models), "comparisons": compare(models)})


def test_levels_are_interpolated() -> None:
    assert first_below([0, 5, 10], [90, 70, 50], 60) == pytest.approx(7.5)
    assert first_below([0, 5, 10], [60, 50, 40], 60) == 0
    assert first_below([0, 5, 10], [90, 80, 61], 60) is None


def test_one_model() -> None:
    """Right falls from 90 to 30 over 5: 60 % at 2.5, 0.025 SD, 5 HU. At level 5 the mean Dice is nearest to half."""
    breaks, beside, trust = _answer(_model((90, 70, 20), (90, 30, 10)))
    assert breaks == (
        "Under the pgd attack, right breaks first: its Dice falls to 60 % at noise level 2.5 "
        "(RMS per pixel: 0.025 SD, about 5 HU)."
    )
    assert beside == (
        "At noise level 5 the attack leaves a mean Dice of 50 % (95 % interval 46 to 54), random noise of the same "
        "size 88 %; without noise it is 90 %."
    )
    assert "PGD alone tends to flatter" in trust and "--attack pgd,strong" in trust


def test_what_a_sample_under_a_stronger_attack_shows() -> None:
    model = _model((90, 70, 20), (90, 30, 10))
    levels = [{"noise": 5.0, "main": 50.0, "strong": 37.0}, {"noise": 10.0, "main": 15.0, "strong": 11.0}]
    sample = {"slices": 16, "strong_steps": 25, "levels": levels}
    assert _answer(model | {"strong_sample": sample})[2] == (
        "PGD overstates the Dice at noise level 5 by about 13 points, as a stronger attack shows on a sample of 16 "
        "slices; for the figures of all slices ask for --attack pgd,strong and --audit."
    )
    levels[0]["strong"], levels[1]["strong"] = 49.5, 15.0
    assert "found hardly more than PGD" in _answer(model | {"strong_sample": sample})[2]


def test_units_are_left_out_where_they_are_unknown() -> None:
    assert "(RMS per pixel: 0.025 SD)." in _answer(_model((90, 70, 20), (90, 30, 10), unit=False))[0]


def test_a_structure_that_never_breaks_and_one_that_is_broken_without_noise() -> None:
    sturdy = _answer(_model((90, 88, 85), (90, 80, 75)))[0]
    assert "every structure stays above a Dice of 60 % up to noise level 10 (RMS per pixel: 0.1 SD" in sturdy
    assert "left has a Dice of 60 % or less even without noise" in _answer(_model((50, 20, 10), (90, 80, 75)))[0]


def test_the_worst_of_the_attacks_counts() -> None:
    model = _model((90, 88, 85), (90, 80, 75))
    model["others"] = {
        "strong": {"family": "attack", "levels": _levels((90, 50, 10), (90, 30, 10), True)},
        "worst of all": {"family": "attack", "levels": _levels((90, 50, 10), (90, 30, 10), True)},
    }
    breaks, _, trust = _answer(model)
    assert breaks.startswith("Under the worst of the attacks, right breaks first") and "noise level 2.5" in breaks
    assert "--audit does that" in trust


@pytest.mark.parametrize(("cases", "said"), [(6, "paired test over 6 cases, p = "), (5, "5 cases, too few for a test")])
def test_two_models(cases: int, said: str) -> None:
    plain = _model((90, 30, 10), (90, 20, 10), "nnUNetTrainerPlain", cases)
    breaks, difference, _ = _answer(plain, _model((90, 60, 20), (90, 70, 10), cases=cases))
    assert "in nnUNetTrainerPlain, right at noise level 2.1" in breaks and "in nnUNetTrainerIMA, left at" in breaks
    assert "nnUNetTrainerIMA keeps 40.0 points more mean Dice than nnUNetTrainerPlain" in difference
    assert said in difference


def test_what_the_audit_says() -> None:
    passed, failed = ({"name": "x", "verdict": verdict} for verdict in ("PASS", "FAIL"))
    model = _model((90, 70, 20), (90, 30, 10))
    assert _answer(model | {"audit": [passed, passed]})[2] == "The attack passed all of its 2 checks."
    doubt = _answer(model | {"audit": [passed, failed]})[2]
    assert doubt.startswith("Take the figures of nnUNetTrainerIMA with care: 1 of the 2 checks")


def test_a_classifier() -> None:
    """Sick falls from 90 to 10 over level 0 to 2: half at level 1, of 10 000 pixels 1 % each."""
    rows = [
        {
            "accuracy": [a, a - 5, a + 5],
            "sensitivity sick": [a, None, None],
            "sensitivity well = specificity sick": [95.0, 1, 2],
        }
        for a in (90.0, 10.0)
    ]
    model = {"name": "ce", "classes": ["sick", "well"], "pixels": 10_000, "attacks": {"pgd": rows}}
    breaks, left, trust = classifiers_answer({"models": [model], "noise": [0, 2], "norm": "l2"}, ["pgd"])
    assert breaks == (
        "Under pgd, sick breaks first: half of its images are missed at noise level 1 "
        "(RMS per pixel: 1 % of the range of intensities)."
    )
    assert "10 % (95 % interval 5 to 15) of ce, without noise 90 %" in left and "--attack strong" in trust
