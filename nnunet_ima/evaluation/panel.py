"""The models that say how far a prediction can be trusted: its own ensemble, models beside it, the plain one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nnunet_ima.attacks.frozen import Model
from nnunet_ima.errors import UserError
from nnunet_ima.evaluation.evaluate import SAME_INPUT, Subject, check_fits
from nnunet_ima.evaluation.noises import Target
from nnunet_ima.evaluation.sweep import target_of
from nnunet_ima.segmentation.cases.averaged import AveragedNetwork
from nnunet_ima.segmentation.cases.intensities import CT
from nnunet_ima.segmentation.cases.models import TrainedModel, load_predictor
from nnunet_ima.segmentation.cases.tiles import TiledNetwork

LEAST_MEMBERS = 2


@dataclass(frozen=True)
class Panel:
    """target: whose prediction is checked. members: networks whose predictions are compared with each other, the folds
    of the target among them; plain: what its prediction is compared with, None without. Networks turn slices into
    logits as the target's does."""

    target: Target
    members: Sequence[Model] = ()
    plain: Model | None = None


def panel_of(subject: Subject, members: Sequence[TrainedModel], plain: TrainedModel | None, mirroring: bool) -> Panel:
    """The subject's own folds and the members beside them. UserError for a model with other labels, or one that nnU-Net
    shows another image of the same case."""
    device = subject.target.device

    def network(model: TrainedModel, flag: str) -> Model:
        predictor = load_predictor(model, device)
        check_fits(subject.model, subject.predictor, model, predictor, flag, SAME_INPUT)
        _check_window(subject, model, predictor, flag)
        return target_of(predictor, mirroring=mirroring).network

    together = [*_folds(subject.target.network), *(network(member, "--members") for member in members)]
    enough = len(together) >= LEAST_MEMBERS
    return Panel(subject.target, together if enough else (), None if plain is None else network(plain, "--plain"))


def _folds(network: Model) -> list[Model]:
    """The folds of an ensemble, each as a network of its own; a single network is itself."""
    assert isinstance(network, TiledNetwork)
    if not isinstance(network.network, AveragedNetwork) or len(network.network.members) == 1:
        return [network]
    return [TiledNetwork(member, network.patch_size, network.step).eval() for member in network.network.alone()]


def _check_window(subject: Subject, other: TrainedModel, loaded: Any, flag: str) -> None:
    """UserError where CT is normalised by other intensities."""
    ours, theirs = (
        one.plans_manager.foreground_intensity_properties_per_channel for one in (subject.predictor, loaded)
    )
    if CT in subject.predictor.configuration_manager.normalization_schemes and ours != theirs:
        raise UserError(
            f"{flag}: {other} was planned with other intensities than {subject.model}, so that they see different "
            "images; choose a model of the same data set."
        )
