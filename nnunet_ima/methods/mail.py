"""MAIL, probabilistic margins for instance reweighting (Wang et al., NeurIPS 2021), on AT, TRADES and MART."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from nnunet_ima.errors import UserError
from nnunet_ima.methods.divergence import divergence, runner_up
from nnunet_ima.methods.fixed import FixedLevel
from nnunet_ima.methods.mart import misjudged
from nnunet_ima.methods.method import Batch, Pass, count, number
from nnunet_ima.methods.trades import diverging
from nnunet_ima.methods.weights import scaled

Kind = Literal["adversarial", "natural", "difference"]
KINDS: tuple[Kind, ...] = ("adversarial", "natural", "difference")


def weights(margins: Tensor, gamma: float, beta: float, breakable: Tensor | None = None) -> Tensor:
    """sigmoid(-gamma (PM - beta)) of probabilistic margins (N,), `scaled`; no gradient."""
    return scaled(torch.sigmoid(-gamma * (margins.detach().float() - beta)), breakable)


@dataclass(kw_only=True)
class MAIL(FixedLevel):
    """MAIL-AT: sum of w l(x') over the batch, x' the worst point within `noise`. Samples close to the boundary, or
    beyond it, weigh more.

    gamma, beta: slope and middle of the weights. burn_in: share of the epochs in which all weigh the same.
    margin: whose prediction the margin is of: `adversarial`, `natural`, or their `difference` (natural - adversarial).
    """

    word: ClassVar[str] = "mail"
    label: ClassVar[str] = "MAIL"

    steps: int = count(10, 1)
    random_start: bool = True
    gamma: float = number(10.0)
    beta: float = number(-0.5, -1, 1)
    burn_in: float = number(0.75, 0, 1)
    margin: Kind = "adversarial"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.margin not in KINDS:
            raise UserError(f"margin of {self.label} must be one of {', '.join(KINDS)}, got {self.margin!r}.")

    def weights(self, batch: Batch, noisy: Pass) -> Tensor:
        """Of each sample, (N,), mean 1."""
        if self.progress < self.burn_in:
            return torch.ones(len(batch.ids), device=batch.x.device)
        adversarial = batch.objective.lead(noisy.logits, batch.y)
        natural = batch.objective.lead(batch.clean.logits, batch.y)
        margins = {"adversarial": adversarial, "natural": natural, "difference": natural - adversarial}[self.margin]
        return weights(margins, self.gamma, self.beta, self.can_break(batch))

    def loss(self, batch: Batch) -> Tensor:
        noisy = self.noisy(batch)
        return (self.weights(batch, noisy) * noisy.losses()).mean()


@dataclass(kw_only=True)
class MAILTRADES(MAIL):
    """trade_off * sum of w KL(p(x') || p(x)) + sum of l(x), x' where the divergence is largest."""

    word: ClassVar[str] = "mailtrades"
    label: ClassVar[str] = "MAILTRADES"

    gamma: float = number(2.0)
    beta: float = number(0.0, -1, 1)
    trade_off: float = number(5.0)

    def noisy(self, batch: Batch) -> Pass:
        return batch.forward(diverging(self, batch))

    def loss(self, batch: Batch) -> Tensor:
        noisy = self.noisy(batch)
        apart = divergence(batch.objective, noisy.logits, batch.clean.logits, batch.y)
        return batch.clean.loss() + self.trade_off * (self.weights(batch, noisy) * apart).mean()


@dataclass(kw_only=True)
class MAILMART(MAIL):
    """sum of w BCE(p(x'), y) + trade_off * sum of KL(p(x) || p(x')) (1 - p_y(x)); see MART."""

    word: ClassVar[str] = "mailmart"
    label: ClassVar[str] = "MAILMART"

    gamma: float = number(2.0)
    beta: float = number(0.0, -1, 1)
    trade_off: float = number(6.0)

    def loss(self, batch: Batch) -> Tensor:
        noisy = self.noisy(batch)
        boosted = noisy.losses() + runner_up(batch.objective, noisy.logits, batch.y)
        return (self.weights(batch, noisy) * boosted).mean() + self.trade_off * misjudged(batch, noisy).mean()
