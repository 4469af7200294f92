"""Noise in a band: the transform against scipy's, and closed forms of the attack."""

import pytest
import torch
from scipy import fft
from torch import Tensor

from nnunet_ima.attacks import Margin, ball, frequency
from nnunet_ima.attacks.frequency import dct, in_band, inverse_dct
from tests.models import Counting, Curved, at_distances, generators, linear_model

SHAPE = (2, 6, 5)
BANDS = [(0.0, 0.25), (0.25, 0.5), (0.5, 1.0), (0.0, 1.0)]


def images(count: int = 3, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", [(1, 7), SHAPE, (1, 3, 4, 5), (1, 1, 512)])
def test_the_transform_is_scipys_and_keeps_l2_norms(shape: tuple[int, ...]) -> None:
    x = images(shape=shape)
    axes = list(range(2, x.ndim))
    theirs = torch.from_numpy(fft.dctn(x.double().numpy(), axes=axes, norm="ortho"))
    torch.testing.assert_close(dct(x).double(), theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(inverse_dct(dct(x)), x, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ball.size(dct(x), "l2"), ball.size(x, "l2"), rtol=1e-5, atol=0)


def test_autocast_does_not_round_the_image() -> None:
    x = images()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(dct(x), dct(x.clone())) and dct(x).dtype == torch.float32
        found = inverse_dct(dct(x))
    torch.testing.assert_close(found, x, rtol=1e-5, atol=1e-5)


def test_bands_by_hand_and_neighbours_share_nothing() -> None:
    assert in_band((2, 4), (0.25, 0.6)).tolist() == [[False, True, True, False], [True, True, True, False]]
    assert (torch.stack([in_band((9, 7), band) for band in BANDS[:3]]).sum(0) == 1).all()
    assert in_band((9, 7), (0, 1)).all()


@pytest.mark.parametrize("band", BANDS)
def test_on_a_linear_model_it_finds_the_steepest_point_of_the_band(band: tuple[float, float]) -> None:
    """The gradient's part in the band, made as long as the noise level."""
    model = linear_model(SHAPE)
    x, radius = at_distances(model, SHAPE, [0.5, 2.0, 1.0]), torch.tensor([0.4, 1.0, 2.5])
    y, inside = model.label(x), in_band(SHAPE[1:], band)
    found = frequency(model, x, y, radius, band=band, objective=Margin(), steps=30, generator=generators([1, 2, 3]))
    part = inverse_dct(dct(model.weight.detach().view(1, *SHAPE)) * inside)
    best = x - ball.broadcast(radius * (2 * y - 1), x) * part / part.norm()
    torch.testing.assert_close(model.score(found), model.score(best), rtol=1e-3, atol=1e-3)
    assert (ball.size(found - x, "l2") <= radius * (1 + 1e-5)).all()


@pytest.mark.parametrize("band", BANDS)
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_its_noise_has_no_frequency_outside_of_the_band(band: tuple[float, float], precision: torch.dtype) -> None:
    model, x = Curved(60), images()
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        found = frequency(model, x, model(x).argmax(1), 1.0, band=band, steps=10)
    coefficients = dct(found - x)
    assert ball.size(coefficients * ~in_band(SHAPE[1:], band), "l2").max() < 1e-5
    assert ((ball.size(found - x, "l2") > 0.3) & (ball.size(found - x, "l2") <= 1 + 1e-5)).all()


def test_a_sample_does_not_depend_on_its_batch_mates() -> None:
    model, x = Curved(60), images(5)
    y = model(x).argmax(1)
    together = frequency(model, x, y, 0.7, steps=15, generator=generators([1, 2, 3, 4, 5]))
    alone = frequency(model, x[3:4], y[3:4], 0.7, steps=15, generator=generators([4]))
    torch.testing.assert_close(together[3:4], alone, rtol=1e-3, atol=1e-3)


def test_noise_level_zero_changes_nothing_and_asks_nothing() -> None:
    model, x = Counting(Curved(60)), images()
    assert torch.equal(frequency(model, x, torch.zeros(3, dtype=torch.long), 0.0), x)
    assert model.samples == 0


def test_what_no_band_allows_is_named() -> None:
    x, y = images(1), torch.zeros(1, dtype=torch.long)
    with pytest.raises(ValueError, match="the L2 norm without bounds only"):
        frequency(Curved(60), x, y, 1.0, norm="linf")
    with pytest.raises(ValueError, match="the L2 norm without bounds only"):
        frequency(Curved(60), x, y, 1.0, bounds=(0.0, 1.0))
    with pytest.raises(ValueError, match="x must have dimensions of space"):
        frequency(Curved(60), x.flatten(1), y, 1.0)
    with pytest.raises(ValueError, match="holds no frequency of an image of"):
        frequency(Curved(60), x, y, 1.0, band=(0.01, 0.1))
