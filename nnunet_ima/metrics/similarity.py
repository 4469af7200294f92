"""How much of an image's structure noise leaves."""

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity


def mean_ssim(clean: NDArray[np.float32], noisy: NDArray[np.float32]) -> float:
    """Structural similarity of two images (C, H, W), mean over channels: 1 for equal ones, about 0 for unrelated ones.

    Wang et al., IEEE TIP 2004: Gaussian window of 1.5 pixels, K1 0.01, K2 0.03. data_range: the largest less the
    least intensity of the clean channel. NaN where no channel has any contrast.
    """
    found = [
        structural_similarity(
            before,
            after,
            data_range=float(np.ptp(before)),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for before, after in zip(clean, noisy, strict=True)
        if np.ptp(before) > 0
    ]
    return float(np.mean(found)) if found else float("nan")
