"""The volumes of preprocessed cases, whole: what a 3D model is attacked on."""

from typing import Any

from numpy.typing import NDArray

from nnunet_ima.segmentation.cases.slices import SliceChoice, Slices, qualifying


class Volumes(Slices):
    """Each case is one sample, with number 0: image (C, Z, H, W), reference (1 or more channels, Z, H, W).

    Cases without foreground in their reference do not count, but with the choice `all`.
    """

    unit = "volume"

    def _numbers(self, reference: NDArray[Any], choice: SliceChoice) -> list[int]:
        return [0] if choice == "all" or qualifying(reference, self._labels.ignore_label, "foreground") else []

    def _part(self, array: NDArray[Any], number: int) -> NDArray[Any]:
        return array
