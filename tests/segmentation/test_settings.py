import json
import math
from dataclasses import fields, replace
from typing import Any

import pytest

from nnunet_ima.errors import UserError
from nnunet_ima.methods.ima import IMA
from nnunet_ima.methods.method import Run
from nnunet_ima.methods.registry import method_named
from nnunet_ima.segmentation.loader import probability_of_a_visit
from nnunet_ima.segmentation.settings import Settings, paper_settings


def test_plans_without_a_block_give_the_papers_defaults() -> None:
    settings = Settings.of({"configurations": {}})
    assert settings == Settings()
    ima = settings.build(IMA, None, 1, (10, 10))
    assert isinstance(ima, IMA)
    assert (ima.beta, ima.steps, ima.alpha, ima.bisections, ima.random_start) == (0.5, 20, 4.0, 10, False)
    assert (settings.norm, settings.threshold, settings.dice) == ("l2", 0.6, "mean")
    assert settings.epochs is None
    assert settings.noise_max is None


def test_a_block_sets_what_it_names() -> None:
    settings = Settings.of({"ima": {"noise_max": 15, "dice": "max", "epochs": 50}})
    assert settings == Settings(noise_max=15, dice="max", epochs=50)


def test_a_block_survives_the_way_through_a_plans_file() -> None:
    own: dict[str, Any] = {"ima": {"margin_step": 1.0, "random_start": True}, "trades": {"beta": 1.0}}
    settings = Settings(noise_max=12.5, norm="linf", val_iterations=3, methods=own)
    again = Settings.of(json.loads(json.dumps({"ima": settings.block()})))
    assert replace(again, methods=own) == settings
    assert again.all_methods() == settings.all_methods()
    assert again.methods["ima"]["margin_step"] == again.methods["trades"]["beta"] == 1.0


def test_a_block_holds_only_what_is_set() -> None:
    assert not {"noise_max", "epochs", "iterations", "val_iterations"} & Settings().block().keys()
    assert "margin_step" not in Settings().block()["methods"]["ima"]
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
    ("noise_max", -1),
    ("noise_max", math.inf),
    ("noise_max", math.nan),
    ("noise_max", "15"),
    ("noise_max", True),
    ("norm", "l1"),
    ("norm", None),
    ("threshold", -0.1),
    ("threshold", 1.5),
    ("dice", "median"),
    ("dice", ["mean"]),
    ("epochs", 0),
    ("epochs", 1.5),
    ("iterations", 0),
    ("val_iterations", -3),
    ("val_iterations", "5"),
    ("initial_lr", -0.01),
    ("initial_lr", "0.03"),
    ("attack_precision", "float16"),
    ("budget", 0),
    ("budget", "9000"),
    ("ema", 1),
    ("ema", -0.1),
    ("ema", "0.9"),
    ("awp", -0.1),
    ("awp", None),
    ("attack_loss", "strong"),
    ("recompute", "on"),
    ("val_noise", -1),
    ("clean_loss", -1),
    ("clean_loss", "1"),
    ("ladder", 2.5),
    ("ladder", -1),
]


@pytest.mark.parametrize(("key", "value"), BAD)
def test_a_value_out_of_range_is_refused_by_key_and_value(key: str, value: Any) -> None:
    with pytest.raises(UserError) as caught:
        Settings.of({"ima": {key: value}})
    assert str(caught.value).startswith(f"{key} must be ")
    assert repr(value) in str(caught.value)


def test_every_key_has_been_tried_with_a_bad_value() -> None:
    assert {key for key, _ in BAD} == {field.name for field in fields(Settings)} - {"methods"}


OF_IMA: list[tuple[str, Any]] = [
    ("margin_step", -0.1),
    ("margin_step", math.inf),
    ("beta", -0.1),
    ("beta", 1.1),
    ("beta", None),
    ("beta", math.nan),
    ("steps", 0),
    ("steps", 2.0),
    ("steps", None),
    ("steps", True),
    ("alpha", -1.0),
    ("alpha", math.inf),
    ("alpha", None),
    ("bisections", -1),
    ("bisections", 1.5),
    ("random_start", 1),
    ("random_start", "true"),
]


@pytest.mark.parametrize(("key", "value"), OF_IMA)
def test_a_methods_value_out_of_range_is_refused_by_key_and_value(key: str, value: Any) -> None:
    with pytest.raises(UserError) as caught:
        Settings.of({"ima": {"methods": {"ima": {key: value}}}})
    assert str(caught.value).startswith(f"{key} of IMA must be ")
    assert repr(value) in str(caught.value)


def test_a_setting_of_another_method_or_an_unknown_method_is_refused() -> None:
    with pytest.raises(UserError, match=r"TRADES has no setting margin_step; it has steps, alpha, .*beta"):
        Settings.of({"ima": {"methods": {"trades": {"margin_step": 2}}}})
    with pytest.raises(UserError, match="There is no method 'pgd'; known: ce, ima, amat, edge, staircase, adv"):
        Settings.of({"ima": {"methods": {"pgd": {}}}})
    with pytest.raises(UserError, match="methods must hold settings by method"):
        Settings.of({"ima": {"methods": {"ima": 3}}})
    with pytest.raises(UserError, match="DDN has no norm linf: use l2"):
        Settings(norm="linf", noise_max=1).build(method_named("ddn"), None, 1, (8, 8))


def test_a_level_in_the_trainers_name_wins_over_the_plans() -> None:
    adv = method_named("adv")
    settings = Settings(noise_max=15, methods={"adv": {"noise": 3.0}})
    assert settings.build(adv, 5.0, 1, (8, 8)).noise == 5.0  # type: ignore[attr-defined]
    assert settings.build(adv, None, 1, (8, 8)).noise == 3.0  # type: ignore[attr-defined]
    assert Settings(noise_max=15).build(adv, None, 1, (8, 8)).noise == 15  # type: ignore[attr-defined]
    assert Settings().build(adv, None, 1, (8, 8)).noise is None  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "block", [{"noise_max": 0, "threshold": 0}, {"threshold": 1, "epochs": 1, "iterations": 1, "val_iterations": 1}]
)
def test_the_limits_themselves_are_allowed(block: dict[str, Any]) -> None:
    own = {"beta": 0, "margin_step": 0, "bisections": 0, "steps": 1}
    settings = Settings.of({"ima": {**block, "methods": {"ima": own}}})
    assert settings.block().items() >= block.items()
    assert settings.block()["methods"]["ima"].items() >= own.items()


@pytest.mark.parametrize(("dataset", "noise_max", "step"), [(2, 25.0, 5.0), (4, 15.0, 2.0), (5, 40.0, 10.0)])
def test_the_papers_settings_by_data_set(dataset: int, noise_max: float, step: float) -> None:
    assert paper_settings(dataset) == Settings(
        noise_max=noise_max, epochs=50, iterations=50, methods={"ima": {"margin_step": step}}
    )


def test_the_paper_knows_three_data_sets_only() -> None:
    with pytest.raises(UserError, match=r"D2, D4, D5, not D7: give --noise-max"):
        paper_settings(7)


def test_the_papers_levels_are_scaled_for_volumes() -> None:
    """The patch of D4 in 3D against its patch in 2D: the same root mean square."""
    settings = paper_settings(4, math.sqrt(40 * 56 * 40 / (56 * 40)))
    assert settings.noise_max == pytest.approx(15 * math.sqrt(40), abs=0.01)
    assert settings.methods["ima"]["margin_step"] == pytest.approx(2 * math.sqrt(40), abs=0.01)


def default_margin_step(noise_max: float, epochs: int, slices: int, draws: int) -> float:
    ima = IMA(noise=noise_max)
    ima.begin(Run(range(slices), epochs, probability_of_a_visit(slices, draws)))
    return ima.step


def test_the_margin_step_makes_up_for_epochs_in_which_a_slice_is_not_drawn() -> None:
    # Two slices, two draws: a slice is seen with probability 1 - (1/2)^2.
    assert default_margin_step(15.0, epochs=10, slices=2, draws=2) == pytest.approx(15 / (10 * 0.75))
    # The paper's own value where a slice is certain to be drawn.
    assert default_margin_step(15.0, epochs=50, slices=1, draws=1) == pytest.approx(15 / 50)
    assert default_margin_step(15.0, epochs=50, slices=10, draws=100000) == pytest.approx(15 / 50)
    # A slice drawn rarely takes larger steps: about S/D times the paper's.
    assert default_margin_step(15.0, epochs=50, slices=10**4, draws=1) == pytest.approx(15 / 50 * 10**4, rel=1e-3)
