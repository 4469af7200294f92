import json
import math
from dataclasses import fields
from typing import Any

import pytest

from nnunet_ima.errors import UserError
from nnunet_ima.segmentation.settings import Settings, default_margin_step, paper_settings


def test_plans_without_a_block_give_the_papers_defaults() -> None:
    settings = Settings.of({"configurations": {}})
    assert settings == Settings()
    assert (settings.beta, settings.steps, settings.alpha, settings.bisections) == (0.5, 20, 4.0, 10)
    assert (settings.norm, settings.threshold, settings.dice, settings.random_start) == ("l2", 0.6, "mean", False)
    assert settings.epochs is None
    assert settings.noise_max is None


def test_a_block_sets_what_it_names() -> None:
    settings = Settings.of({"ima": {"noise_max": 15, "dice": "max", "epochs": 50}})
    assert settings == Settings(noise_max=15, dice="max", epochs=50)


def test_a_block_survives_the_way_through_a_plans_file() -> None:
    settings = Settings(noise_max=12.5, margin_step=1.0, norm="linf", random_start=True, val_iterations=3)
    assert Settings.of(json.loads(json.dumps({"ima": settings.block()}))) == settings
    assert Settings.of({"ima": Settings().block()}) == Settings()


def test_a_block_holds_only_what_is_set() -> None:
    assert not {"noise_max", "margin_step", "epochs", "iterations", "val_iterations"} & Settings().block().keys()
    assert Settings(epochs=3).block()["epochs"] == 3


def test_the_largest_noise_defaults_to_a_tenth_of_a_standard_deviation_per_pixel() -> None:
    assert Settings().resolved_noise_max(1, (320, 256)) == pytest.approx(0.1 * math.sqrt(320 * 256))
    assert Settings().resolved_noise_max(2, (50, 40)) == pytest.approx(0.1 * math.sqrt(4000))
    assert Settings(norm="linf").resolved_noise_max(2, (50, 40)) == 0.1


@pytest.mark.parametrize("noise_max", [0, 25, 7.5])
def test_a_noise_that_is_set_wins_over_the_rule(noise_max: float) -> None:
    assert Settings(noise_max=noise_max).resolved_noise_max(2, (50, 40)) == noise_max
    assert Settings(noise_max=noise_max, norm="linf").resolved_noise_max(2, (50, 40)) == noise_max


def test_an_unknown_key_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"unknown key 'noisemax'.*noise_max.*attack_precision"):
        Settings.of({"ima": {"noisemax": 15}})


@pytest.mark.parametrize("block", [[], "15", None, 3])
def test_a_block_that_is_none_is_refused(block: Any) -> None:
    with pytest.raises(UserError, match="must hold settings by name"):
        Settings.of({"ima": block})


BAD: list[tuple[str, Any]] = [
    ("noise_max", -1), ("noise_max", math.inf), ("noise_max", math.nan), ("noise_max", "15"), ("noise_max", True),
    ("margin_step", -0.1), ("margin_step", math.inf),
    ("beta", -0.1), ("beta", 1.1), ("beta", None), ("beta", math.nan),
    ("steps", 0), ("steps", 2.0), ("steps", None), ("steps", True),
    ("alpha", -1.0), ("alpha", math.inf), ("alpha", None),
    ("bisections", -1), ("bisections", 1.5),
    ("norm", "l1"), ("norm", None),
    ("random_start", 1), ("random_start", "true"),
    ("threshold", -0.1), ("threshold", 1.5),
    ("dice", "median"), ("dice", ["mean"]),
    ("epochs", 0), ("epochs", 1.5), ("iterations", 0), ("val_iterations", -3), ("val_iterations", "5"),
    ("attack_precision", "float16"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), BAD)
def test_a_value_out_of_range_is_refused_by_key_and_value(key: str, value: Any) -> None:
    with pytest.raises(UserError) as caught:
        Settings.of({"ima": {key: value}})
    assert str(caught.value).startswith(f"{key} must be ")
    assert repr(value) in str(caught.value)


def test_every_key_has_been_tried_with_a_bad_value() -> None:
    assert {key for key, _ in BAD} == {field.name for field in fields(Settings)}


@pytest.mark.parametrize(
    "block",
    [
        {"beta": 0, "noise_max": 0, "margin_step": 0, "bisections": 0, "threshold": 0},
        {"beta": 1, "threshold": 1, "steps": 1, "epochs": 1, "iterations": 1, "val_iterations": 1},
    ],
)
def test_the_limits_themselves_are_allowed(block: dict[str, Any]) -> None:
    assert Settings.of({"ima": block}).block().items() >= block.items()


@pytest.mark.parametrize(("dataset", "noise_max", "step"), [(2, 25.0, 5.0), (4, 15.0, 2.0), (5, 40.0, 10.0)])
def test_the_papers_settings_by_data_set(dataset: int, noise_max: float, step: float) -> None:
    assert paper_settings(dataset) == Settings(noise_max=noise_max, margin_step=step, epochs=50, iterations=50)


def test_the_paper_knows_three_data_sets_only() -> None:
    with pytest.raises(UserError, match=r"D2, D4, D5, not D7: give --noise-max"):
        paper_settings(7)


def test_the_margin_step_makes_up_for_epochs_in_which_a_slice_is_not_drawn() -> None:
    # Two slices, two draws: a slice is seen with probability 1 - (1/2)^2.
    assert default_margin_step(15.0, epochs=10, slices=2, draws=2) == pytest.approx(15 / (10 * 0.75))
    # The paper's own value where a slice is certain to be drawn.
    assert default_margin_step(15.0, epochs=50, slices=1, draws=1) == pytest.approx(15 / 50)
    assert default_margin_step(15.0, epochs=50, slices=10, draws=100000) == pytest.approx(15 / 50)
    # A slice drawn rarely takes larger steps: about S/D times the paper's.
    assert default_margin_step(15.0, epochs=50, slices=10**6, draws=100) == pytest.approx(15 / 50 * 10**4, rel=1e-3)
