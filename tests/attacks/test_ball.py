import math

import pytest
import torch
from torch import Tensor

from nnunet_ima.attacks import ball
from nnunet_ima.attacks.ball import NORMS, Norm
from tests.models import generators


def kolmogorov_distance(values: Tensor) -> float:
    """Largest gap between the empirical distribution of `values` and the uniform one on [0, 1]."""
    ordered = values.double().sort().values
    grid = torch.arange(1, len(ordered) + 1, dtype=torch.float64) / len(ordered)
    return float(torch.maximum((ordered - grid).abs(), (ordered - grid + 1 / len(ordered)).abs()).max())


def test_size_is_the_norm_over_all_dimensions_of_each_sample() -> None:
    delta = torch.tensor([[[[3.0, 0.0], [0.0, -4.0]]], [[[1.0, 1.0], [1.0, 1.0]]]])
    assert ball.size(delta, "l2").tolist() == [5.0, 2.0]
    assert ball.size(delta, "linf").tolist() == [4.0, 1.0]


def test_size_is_computed_in_float32_for_half_precision() -> None:
    delta = torch.full((1, 3, 64, 64), 10.0, dtype=torch.float16)
    size = ball.size(delta, "l2")
    assert size.dtype == torch.float32
    assert size.item() == pytest.approx(10 * math.sqrt(3 * 64 * 64))


def test_direction_is_the_unit_gradient_for_l2_and_its_sign_for_linf() -> None:
    gradient = torch.tensor([[3.0, -4.0], [0.0, 2.0]])
    torch.testing.assert_close(ball.direction(gradient, "l2"), torch.tensor([[0.6, -0.8], [0.0, 1.0]]))
    assert ball.direction(gradient, "linf").tolist() == [[1.0, -1.0], [0.0, 1.0]]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("bad", [[0.0, 0.0], [math.nan, 1.0], [math.inf, 1.0], [-math.inf, math.nan]])
def test_direction_of_an_unusable_gradient_is_zero_and_spares_the_other_samples(norm: Norm, bad: list[float]) -> None:
    unit = ball.direction(torch.tensor([[3.0, 4.0], bad]), norm)
    assert unit[1].tolist() == [0.0, 0.0]
    assert ball.size(unit[:1], norm).item() == pytest.approx(1.0)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1e10, 1e30])
def test_direction_does_not_depend_on_the_scale_of_the_gradient(norm: Norm, scale: float) -> None:
    gradient = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ball.direction(gradient * scale, norm), ball.direction(gradient, norm))
    torch.testing.assert_close(ball.size(ball.direction(gradient * scale, norm), norm), torch.ones(4))


def test_projection_leaves_points_inside_and_puts_points_outside_on_the_sphere_of_their_own_radius() -> None:
    delta = torch.tensor([[0.3, 0.4], [3.0, 4.0], [3.0, 4.0], [3.0, 4.0]])
    projected = ball.project(delta, torch.tensor([1.0, 1.0, 2.0, 0.0]), "l2")
    assert torch.equal(projected[0], delta[0])
    torch.testing.assert_close(projected[1:], torch.tensor([[0.6, 0.8], [1.2, 1.6], [0.0, 0.0]]))


def test_projection_for_linf_clips_every_entry_to_the_radius_of_its_sample() -> None:
    delta = torch.tensor([[[0.5, -2.0]], [[0.5, -2.0]], [[0.5, -2.0]]])
    projected = ball.project(delta, torch.tensor([3.0, 1.0, 0.25]), "linf")
    assert projected.tolist() == [[[0.5, -2.0]], [[0.5, -1.0]], [[0.25, -0.25]]]


def test_projection_keeps_zero_in_a_ball_without_volume() -> None:
    assert ball.project(torch.zeros(1, 3), torch.zeros(1), "l2").tolist() == [[0.0, 0.0, 0.0]]


@pytest.mark.parametrize("dimensions", [2, 5])
@pytest.mark.parametrize("norm", NORMS)
def test_random_points_are_uniform_in_the_volume_of_the_ball(dimensions: int, norm: Norm) -> None:
    radius = torch.linspace(0.5, 3, 4000)
    points = ball.random_point(torch.zeros(4000, dimensions), radius, norm, torch.Generator().manual_seed(0))
    # The volume within r grows like r^d, so (r/R)^d is uniform exactly if the points are.
    share = (ball.size(points, norm) / radius) ** dimensions
    assert share.max() <= 1 + 1e-5
    assert kolmogorov_distance(share) < 2 / math.sqrt(4000)
    # No side of the ball is preferred.
    assert (points / radius[:, None]).mean(0).abs().max() < 4 / math.sqrt(4000)


@pytest.mark.parametrize("norm", ball.NORMS)
def test_noise_is_stretched_to_its_radius(norm: Norm) -> None:
    """What is 0 becomes the random point that its generator gives."""
    delta = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    delta[1], radius = 0.0, torch.tensor([0.1, 2.0, 30.0])
    found = ball.stretched(delta, radius, norm, [torch.Generator().manual_seed(seed) for seed in range(3)])
    random = ball.random_point(delta, radius, norm, [torch.Generator().manual_seed(seed) for seed in range(3)])
    torch.testing.assert_close(found[1], random[1], rtol=0, atol=0)
    torch.testing.assert_close(ball.size(found, norm)[::2], radius[::2])
    torch.testing.assert_close(ball.direction(found, "l2")[::2], ball.direction(delta, "l2")[::2])


def test_random_points_for_linf_are_uniform_in_every_coordinate() -> None:
    points = ball.random_point(torch.zeros(4000, 3), torch.full((4000,), 2.0), "linf", torch.Generator().manual_seed(0))
    for coordinate in points.T:
        assert kolmogorov_distance((coordinate + 2) / 4) < 2 / math.sqrt(4000)


@pytest.mark.parametrize("norm", NORMS)
def test_one_generator_per_sample_draws_the_same_alone_and_in_a_batch(norm: Norm) -> None:
    x, radius = torch.zeros(3, 2, 4), torch.tensor([1.0, 2.0, 3.0])
    together = ball.random_point(x, radius, norm, generators([5, 6, 7]))
    for i, seed in enumerate([5, 6, 7]):
        alone = ball.random_point(x[i : i + 1], radius[i : i + 1], norm, generators([seed]))
        assert torch.equal(alone[0], together[i])
    assert not torch.equal(together[0] / 1, together[1] / 2)


def test_one_generator_for_the_batch_is_reproducible_and_moves_on() -> None:
    x, radius = torch.zeros(2, 3), torch.ones(2)
    generator = torch.Generator().manual_seed(3)
    first, second = (ball.random_point(x, radius, "l2", generator) for _ in range(2))
    assert torch.equal(first, ball.random_point(x, radius, "l2", torch.Generator().manual_seed(3)))
    assert not torch.equal(first, second)


def test_a_wrong_number_of_generators_is_refused() -> None:
    with pytest.raises(ValueError, match="generator must be one or one per sample"):
        ball.random_point(torch.zeros(3, 2), torch.ones(3), "l2", generators([1, 2]))


@pytest.mark.parametrize("norm", ["l1", "L2", ""])
def test_an_unknown_norm_is_refused_by_name(norm: str) -> None:
    with pytest.raises(ValueError, match="norm must be one of l2, linf"):
        ball.check_norm(norm)


def test_per_sample_makes_one_float32_number_per_sample() -> None:
    x = torch.zeros(3, 2)
    assert ball.per_sample(2, x, "epsilon").tolist() == [2.0, 2.0, 2.0]
    given = ball.per_sample(torch.tensor([1, 2, 3]), x, "epsilon")
    assert given.tolist() == [1.0, 2.0, 3.0]
    assert given.dtype == torch.float32


@pytest.mark.parametrize(
    "value", [-1.0, math.nan, math.inf, torch.tensor([1.0, -1.0, 1.0]), torch.ones(2), torch.ones(3, 1)]
)
def test_per_sample_refuses_what_is_no_radius_and_names_the_argument(value: float | Tensor) -> None:
    with pytest.raises(ValueError, match="epsilon must be"):
        ball.per_sample(value, torch.zeros(3, 2), "epsilon")


def test_a_step_goes_into_the_ball_first_and_then_into_the_bounds() -> None:
    x, delta, radius = torch.tensor([[0.9, 0.5]]), torch.tensor([[3.0, 4.0]]), torch.tensor([0.5])
    torch.testing.assert_close(ball.step_inside(x, delta, radius, "l2", None), torch.tensor([[1.2, 0.9]]))
    torch.testing.assert_close(ball.step_inside(x, delta, radius, "l2", (0.0, 1.0)), torch.tensor([[1.0, 0.9]]))
