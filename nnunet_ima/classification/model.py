"""ResNet-18 as in the IMA paper: instance normalisation, and the mapping of intensities inside."""

import torch
from torch import Tensor, nn
from torchvision.models import resnet18


def _instance_norm(channels: int) -> nn.Module:
    return nn.InstanceNorm2d(channels, affine=True)


class Classifier(nn.Module):
    """Logits (N, classes) of images (N, channels, H, W) in [0, 1], which it maps to [-1, 1] itself, so that noise
    levels are in the units of the images.

    Instance normalisation gives the same answer in training and in evaluation, whatever else is in the batch: an
    attack can share the clean pass of a training step.
    """

    def __init__(self, classes: int, channels: int = 1) -> None:
        super().__init__()
        self.network = resnet18(num_classes=classes, norm_layer=_instance_norm)
        if channels != 3:
            self.network.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
            nn.init.kaiming_normal_(self.network.conv1.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network((x - 0.5) / 0.5)
        return logits


def build(classes: int, channels: int, seed: int) -> Classifier:
    """A new model; the same seed gives the same weights."""
    torch.manual_seed(seed)
    return Classifier(classes, channels)
