"""Every method against hand-computed examples, closed forms on linear models, and its own gradient."""

import copy
import math
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nnunet_ima.attacks import CrossEntropy
from nnunet_ima.attacks.ddn import ddn
from nnunet_ima.attacks.frozen import Model, frozen
from nnunet_ima.attacks.walk import walk
from nnunet_ima.classification.train import ClassificationBatch, ClassificationPass
from nnunet_ima.errors import UserError
from nnunet_ima.methods import gairat, mail
from nnunet_ima.methods.adaptive import Adaptive
from nnunet_ima.methods.divergence import divergence, runner_up, true_probability
from nnunet_ima.methods.edge import Edge
from nnunet_ima.methods.iaat import IAAT
from nnunet_ima.methods.method import Method, Run, settings_of
from nnunet_ima.methods.registry import build, defaults, method_named, methods, parse_settings, register
from nnunet_ima.methods.smd import SMD, first_step
from nnunet_ima.methods.vanilla import Vanilla
from tests.models import at_distances, batch_of, linear_model

WORDS = list(methods())
IDS: list[Hashable] = ["a", "b", "c", "d"]


def begun(word: str, noise: float | None = 0.3, norm: Any = "l2", run: Run | None = None, **settings: Any) -> Method:
    method = build(method_named(word), settings, noise, norm)
    method.begin(run or Run(IDS, 10))
    return method


# --- the papers' rules ------------------------------------------------------------------------------------------------


def test_smd_first_step_is_the_papers_example() -> None:
    assert first_step(150, 1 / 255) == pytest.approx(2 / 255)
    assert first_step(255, 1 / 255) == pytest.approx(1 / 255)
    assert first_step(254, 1 / 255) == pytest.approx(2 / 255)
    smd = begun("smd", norm="linf", run=Run(IDS, 150))
    assert isinstance(smd, SMD)
    assert smd.store.get(IDS).tolist() == pytest.approx([2 / 255] * 4) and math.isinf(smd.store.maximum)
    # L2: a change of all of 3 x 8 x 8 pixels by 1/255 of a range of 5.
    wide = begun("smd", run=Run(IDS, 150, shape=(3, 8, 8), intensity_range=lambda: 5.0))
    assert isinstance(wide, SMD) and wide.unit == pytest.approx(5 / 255 * math.sqrt(192))


def test_smd_grows_margins_by_both_factors() -> None:
    smd = begun("smd", norm="linf", run=Run(IDS, 150))
    assert isinstance(smd, SMD)
    margin = torch.tensor([2.0, 4.0, 8.0]).double() / 255
    grown = (smd.grown(margin, torch.zeros(3)) - margin) / smd.step
    assert grown.tolist() == pytest.approx([0.81, 0.6561, 0.43046721])
    steep = (smd.grown(margin, torch.tensor([0.0, 1.0, 3.0])) - margin) / smd.step
    assert steep.tolist() == pytest.approx([0.81, 0.6561 / 2, 0.43046721 / 4])


def test_smd_keeps_the_last_right_point_and_its_distance() -> None:
    model = linear_model((6,))
    x = at_distances(model, (6,), [0.5, 5.0, 0.5])
    y = model.label(x)
    y[2] = 1 - y[2]
    smd = begun("smd", run=Run(IDS, 4, shape=(6,)))
    assert isinstance(smd, SMD) and smd.unit < 0.5
    smd.store.margins[:] = 1.0
    batch = batch_of(model, x, y, ["a", "b", "c"])
    loss = smd.loss(batch)
    tally = smd.end_epoch()
    assert (tally.correct, tally.crossed) == (2, 1)
    # a: the distance of the boundary; b grew by its factors; c was wrong: unchanged. d was not seen.
    a, b, c, d = smd.store.get(IDS).tolist()
    assert a == pytest.approx(0.5, abs=1e-3) and a < 0.5
    # b's last iterate lies one margin closer; the gradient of its cross-entropy there is (1 - p) w.
    norm = model.weight.norm().item()
    steepness = norm / (1 + math.exp(4.0 * norm))
    assert b == pytest.approx(1.0 + smd.step * 0.9 ** math.floor(1 / smd.unit) / (1 + steepness), rel=1e-4)
    assert (c, d) == (1.0, 1.0)
    assert torch.isfinite(loss)


@pytest.mark.parametrize(
    ("distance", "expected"), [(20.0, 8.19), (9.0, 8.0), (5.0, 7.81)], ids=["holds above", "holds at", "breaks"]
)
def test_iaat_moves_by_the_papers_example(distance: float, expected: float) -> None:
    """E = 8, gamma = 1.9, b = 0.1, in units of one."""
    model = linear_model((1,))
    x = at_distances(model, (1,), [distance])
    iaat = begun("iaat", run=Run(["a"], 10, intensity_range=lambda: 255.0))
    assert isinstance(iaat, IAAT)
    assert iaat.store.get(["a"]).tolist() == [8.0] and iaat.step == pytest.approx(1.9)
    iaat.start_epoch(0.4)
    iaat.loss(batch_of(model, x, model.label(x), ["a"]))
    assert not iaat.outcomes.held, "in the warm-up margins stay"
    iaat.start_epoch(0.5)
    iaat.loss(batch_of(model, x, model.label(x), ["a"]))
    iaat.end_epoch()
    assert iaat.store.get(["a"]).tolist() == pytest.approx([expected])


@pytest.mark.parametrize("epochs", [5, 6])
def test_iaat_says_where_all_of_a_training_is_warm_up(epochs: int) -> None:
    remark = begun("iaat", run=Run(IDS, epochs, shape=(3,))).remark
    assert remark == "" if epochs == 6 else "warm_up 5 takes all of the epochs, 5" in remark


def test_iaat_takes_the_clean_loss_of_what_is_wrong() -> None:
    model = linear_model((3,))
    x = at_distances(model, (3,), [4.0, 4.0])
    y = model.label(x)
    y[1] = 1 - y[1]
    iaat = begun("iaat", run=Run(IDS, 10, shape=(3,), intensity_range=lambda: 20.0))
    assert isinstance(iaat, IAAT)
    level = iaat.store.get(["a"]).item()
    loss = iaat.loss(batch_of(model, x, y, ["a", "b"]))
    norm = model.weight.norm()
    score = model.score(x).abs()
    expected = (functional.softplus(-(score[0] - level * norm)) + functional.softplus(score[1])) / 2
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_mail_weights_are_the_papers_example() -> None:
    found = mail.weights(torch.tensor([-0.5, 0.0, 0.5, 1.0]), 2.0, 0.0)
    assert found.tolist() == pytest.approx([1.805972, 1.235176, 0.664380, 0.294473], abs=1e-6)
    assert found.mean().item() == pytest.approx(1.0)


def test_mail_weighs_after_the_burn_in_only() -> None:
    model = linear_model((4,))
    x = at_distances(model, (4,), [0.2, 3.0])
    method = begun("mail")
    batch = batch_of(model, x, model.label(x), ["a", "b"])
    noisy = ClassificationPass(model(x), model.label(x))
    assert isinstance(method, mail.MAIL)
    assert method.weights(batch, noisy).tolist() == [1.0, 1.0]
    method.start_epoch(0.75)
    probabilities = model(x).softmax(1).amax(1)
    expected = mail.weights(2 * probabilities - 1, 10.0, -0.5)
    torch.testing.assert_close(method.weights(batch, noisy), expected)
    natural = begun("mail", margin="difference")
    natural.start_epoch(0.75)
    assert isinstance(natural, mail.MAIL)
    assert natural.weights(batch, noisy).tolist() == pytest.approx([1.0, 1.0])


def test_gairat_weighs_by_the_steps_needed() -> None:
    held = torch.tensor([0, 5, 10])
    raw = [(1 + math.tanh(-1 + 5 * (1 - 2 * kappa / 10))) / 2 for kappa in (0, 5, 10)]
    mean = sum(raw) / 3
    assert gairat.weights(held, 10, -1.0).tolist() == pytest.approx([value / mean for value in raw])


def test_the_losses_of_trades_and_mart_by_hand() -> None:
    objective = CrossEntropy()
    clean, noisy = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([[0.5, 1.0, 0.0]])
    y = torch.tensor([0])
    p, q = clean.softmax(1)[0].tolist(), noisy.softmax(1)[0].tolist()
    kl = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert divergence(objective, clean, noisy, y).item() == pytest.approx(kl, rel=1e-5)
    assert true_probability(objective, clean, y).item() == pytest.approx(p[0], rel=1e-5)
    assert runner_up(objective, noisy, y).item() == pytest.approx(-math.log(1 - max(q[1:])), rel=1e-5)
    doubt = divergence(objective, clean, noisy, y, 1 - true_probability(objective, clean, y))
    assert doubt.item() == pytest.approx(kl * (1 - p[0]), rel=1e-5)
    assert objective.lead(clean, y).item() == pytest.approx(p[0] - p[1], rel=1e-5)


def test_vanilla_on_a_linear_model_is_the_loss_at_the_shortened_distance() -> None:
    model = linear_model((5,))
    x = at_distances(model, (5,), [0.5, 2.0])
    y = model.label(x)
    adv = build(Vanilla, {"random_start": False}, 0.7, "l2")
    norm, score = model.weight.norm(), model.score(x).abs()
    expected = (functional.softplus(-score) + functional.softplus(-(score - 0.7 * norm))).mean() / 2
    assert adv.loss(batch_of(model, x, y, ["a", "b"])).item() == pytest.approx(expected.item(), rel=1e-4)


def test_mma_takes_the_boundary_up_to_its_largest_margin() -> None:
    """Two thirds of: log 2 on the boundary where it breaks, nothing where it does not, l(x) for what is wrong."""
    model = linear_model((5,))
    x = at_distances(model, (5,), [0.5, 3.0, 1.0])
    y = model.label(x)
    y[2] = 1 - y[2]
    method = begun("mma", noise=1.0)
    clean = functional.cross_entropy(model(x), y, reduction="none")
    expected = clean.mean() / 3 + 2 / 3 * (math.log(2) + clean[2]) / 3
    loss = method.loss(batch_of(model, x, y, ["a", "b", "c"]))
    assert loss.item() == pytest.approx(expected.item(), rel=2e-3)
    assert (method.tally.correct, method.tally.crossed) == (2, 1)


def test_edge_takes_the_edge_of_the_margin_before_and_beyond_the_boundary() -> None:
    model = linear_model((5,))
    x = at_distances(model, (5,), [0.5, 3.0, 2.0])
    y = model.label(x)
    y[2] = 1 - y[2]
    method = begun("edge", noise=5.0, margin_step=1.0)
    norm, score = model.weight.norm(), model.score(x).abs()
    loss = method.loss(batch_of(model, x, y, ["a", "b", "c"]))
    at_edge = functional.softplus(-(score - norm))
    assert loss.item() == pytest.approx(
        ((at_edge[0] + at_edge[1] + functional.softplus(score[2])) / 3).item(), rel=1e-3
    )
    method.end_epoch()
    assert isinstance(method, Edge)
    assert method.store.get(IDS).tolist() == pytest.approx([0.75, 2.0, 1.0, 1.0], abs=1e-3)


@pytest.mark.parametrize(("patience", "steps_beyond"), [(0, 0), (1, 1), (2, 2)])
def test_fat_stops_soon_after_the_first_wrong_point(patience: int, steps_beyond: int) -> None:
    """10 steps of 0.4 from a distance of 1: right at 0, 0.4, 0.8, wrong at 1.2; the radius, 10, is no limit."""
    model = linear_model((4,))
    x = at_distances(model, (4,), [1.0, 12.0])
    y = model.label(x)
    y = torch.cat([y, 1 - y[:1]])
    x = torch.cat([x, x[:1]])
    found = walk(model, x, y, 10.0, steps=100, alpha=4.0, patience=patience)
    moved = (found.x - x).norm(dim=1)
    assert moved.tolist() == pytest.approx([1.2 + 0.4 * steps_beyond, 10.0, 0.4 * steps_beyond], abs=1e-4)
    assert found.held.tolist() == [3, 100, 0]


def test_a_sample_that_cannot_break_walks_to_the_end() -> None:
    """A slice without foreground is neither right nor wrong."""
    model = linear_model((4,))
    x = at_distances(model, (4,), [1.0, 1.0])
    y = 1 - model.label(x)
    found = walk(model, x, y, 2.0, patience=0, breakable=torch.tensor([True, False]))
    assert (found.x - x).norm(dim=1).tolist() == pytest.approx([0.0, 2.0], abs=1e-4)
    assert found.held.tolist() == [0, 10]


def test_fat_waits_longer_as_training_goes_on() -> None:
    model = linear_model((4,))
    x = at_distances(model, (4,), [1.0])
    losses = []
    for progress in (0.0, 0.5, 0.9):
        fat = begun("fat", noise=10.0, steps=100, random_start=False)
        fat.start_epoch(progress)
        losses.append(fat.loss(batch_of(model, x, model.label(x), ["a"])).item())
    norm = model.weight.norm().item()
    expected = [math.log1p(math.exp(norm * beyond)) for beyond in (0.2, 0.6, 1.0)]
    assert losses == pytest.approx(expected, rel=1e-3)


def test_ddn_finds_the_distance_of_the_boundary() -> None:
    model = linear_model((3, 4))
    x = at_distances(model, (3, 4), [0.1, 0.7, 2.0, 6.0])
    y = model.label(x)
    x, y = torch.cat([x, x[:1]]), torch.cat([y, 1 - y[:1]])
    found = ddn(model, x, y, steps=100)
    assert (found - x).flatten(1).norm(dim=1).tolist() == pytest.approx([0.1, 0.7, 2.0, 6.0, 0.0], rel=0.02)
    assert (model(found).argmax(1) != y).all()


def test_ddn_training_shortens_what_is_longer_than_the_level() -> None:
    model = linear_model((4,))
    x = at_distances(model, (4,), [0.5, 3.0])
    method = begun("ddn", noise=1.0)
    score = model.score(x).abs()
    loss = method.loss(batch_of(model, x, model.label(x), ["a", "b"]))
    expected = (math.log(2) + functional.softplus(-(score[1] - model.weight.norm()))) / 2
    assert loss.item() == pytest.approx(expected.item(), rel=0.02)


# --- all alike --------------------------------------------------------------------------------------------------------


class Replay(ClassificationBatch):
    """Attacks see the model as it was, and noisy passes get the noise that was found first."""

    attack_model: nn.Module
    recorded: list[Tensor] | None = None

    @contextmanager
    def attacked(self) -> Iterator[Model]:
        with frozen(self.attack_model):
            yield self.attack_model

    def forward(self, x: Tensor, rows: Tensor | None = None) -> ClassificationPass:
        if self.recorded is None:
            self.recorded = [x.detach()]
        return super().forward(self.recorded[0], rows)


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 3))


@pytest.mark.parametrize("word", WORDS)
def test_the_gradient_of_each_loss_is_its_slope(word: str) -> None:
    """Along a random direction of the weights, against central differences; the noise itself is held fixed."""
    model = small_network()
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(8, 3, generator=generator)
    with torch.no_grad():
        y = model(x).argmax(1)
    y[0] = (y[0] + 1) % 3
    ids: list[Hashable] = list(range(8))
    original = copy.deepcopy(model)
    recorded: list[Tensor] | None = None

    def loss_at(shift: float) -> Tensor:
        nonlocal recorded
        for parameter, start, way in zip(model.parameters(), original.parameters(), direction, strict=True):
            parameter.data = start.data + shift * way
        torch.manual_seed(5)
        method = begun(word, run=Run(ids, 10, shape=(3,), intensity_range=lambda: 20.0))
        batch = Replay(x.clone(), y, ids, model)
        batch.attack_model, batch.recorded = original, recorded
        batch.shared_logits = None
        loss = method.loss(batch)
        recorded = batch.recorded
        return loss

    direction = [torch.randn(parameter.shape, generator=generator) for parameter in model.parameters()]
    loss_at(0.0).backward()  # type: ignore[no-untyped-call]
    slope = sum(
        float((p.grad * way).sum()) for p, way in zip(model.parameters(), direction, strict=True) if p.grad is not None
    )
    step = 2e-3
    with torch.no_grad():
        measured = (loss_at(step) - loss_at(-step)).item() / (2 * step)
    assert slope == pytest.approx(measured, rel=0.01, abs=2e-3)


def train(word: str, norm: Any = "l2", epochs: int = 12) -> tuple[Method, nn.Module, Tensor, Tensor]:
    """A small network on two clouds whose closest points are 2 apart."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 2, generator=generator) * torch.tensor([0.2, 0.7])
    y = (torch.arange(64) % 2).long()
    x[:, 0] = x[:, 0].abs() + 1
    x[y == 0, 0] *= -1
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 16), nn.LeakyReLU(), nn.Linear(16, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    ids: list[Hashable] = list(range(64))
    # Five steps of the attack are plenty in two dimensions.
    method = begun(word, 0.5, norm, Run(ids, epochs, shape=(2,), intensity_range=lambda: 4.0), steps=5)
    for epoch in range(epochs):
        method.start_epoch(epoch / epochs)
        for rows in torch.randperm(64).split(16):  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            batch = batch_of(model, x[rows], y[rows], rows.tolist())
            loss = batch.clean.loss() if method.is_off else method.loss(batch)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        method.end_epoch()
    return method, model, x, y


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("word", WORDS)
def test_each_method_learns_in_both_norms(word: str, norm: Any) -> None:
    if norm not in method_named(word).norms:
        with pytest.raises(UserError, match="has no norm linf: use l2"):
            begun(word, norm=norm)
        return
    method, model, x, y = train(word, norm)
    assert (model(x).argmax(1) == y).all()
    if isinstance(method, Adaptive):
        again = begun(word, 0.5, norm, Run(method.store.ids, 12, shape=(2,), intensity_range=lambda: 4.0))
        again.load_state(copy.deepcopy(method.state()))
        assert isinstance(again, Adaptive) and torch.equal(again.store.margins, method.store.margins)
        first = begun(word, 0.5, norm, Run(method.store.ids, 12, shape=(2,), intensity_range=lambda: 4.0))
        assert isinstance(first, Adaptive)
        assert method.store.visits.min() > 0 and (method.store.margins != first.store.margins).any()
    else:
        assert method.state() == {}


# --- names and settings -----------------------------------------------------------------------------------------------


def test_words_and_labels_are_unique_and_defaults_are_the_papers() -> None:
    known = methods()
    assert len({method.label for method in known.values()}) == len(known) == 17
    papers: dict[str, dict[str, Any]] = {
        "ima": {"beta": 0.5, "steps": 20, "alpha": 4.0, "bisections": 10},
        "adv": {"beta": 0.5, "steps": 20},
        "iaat": {"steps": 10, "gamma": 1.9, "smoothing": 0.1, "warm_up_noise": 8.0},
        "mail": {"gamma": 10.0, "beta": -0.5},
        "mailtrades": {"gamma": 2.0, "beta": 0.0, "trade_off": 5.0},
        "mailmart": {"gamma": 2.0, "beta": 0.0, "trade_off": 6.0},
        "trades": {"beta": 6.0, "steps": 10},
        "mart": {"beta": 6.0},
        "mma": {"beta": 2 / 3},
        "fat": {"steps": 10},
        "gairat": {"middle": -1.0, "burn_in": 0.5},
        "ddn": {"steps": 100},
    }
    for word, settings in papers.items():
        assert defaults(known[word]).items() >= settings.items(), word


@pytest.mark.parametrize("word", [word for word in WORDS if "noise" in settings_of(methods()[word])])
def test_a_level_is_asked_for(word: str) -> None:
    with pytest.raises(UserError, match=rf"{methods()[word].label} needs a noise level: give --noise-max"):
        begun(word, noise=None)


def test_settings_from_the_command_line() -> None:
    assert parse_settings(["trades.beta=1", "mail.margin=natural", "trades.random_start=true"]) == {
        "trades": {"beta": 1, "random_start": True},
        "mail": {"margin": "natural"},
    }
    with pytest.raises(UserError, match=r"--set beta=1: write METHOD\.NAME=VALUE"):
        parse_settings(["beta=1"])


def test_a_name_that_is_taken_is_refused() -> None:
    class Other(Vanilla):
        word, label = "other", "TRADES"

    with pytest.raises(ValueError, match="TRADES is the name of a method already"):
        register(Other)
