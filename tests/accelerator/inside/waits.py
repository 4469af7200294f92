"""Host waits: few, and none per sample."""

import pytest

from nnunet_ima.attacks import square
from nnunet_ima.attacks.ball import Norm
from tests.accelerator.device import Accelerator
from tests.accelerator.waits import AT_MOST, MEASUREMENTS, SAMPLES, counted, seeded, table


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_the_host_waits_no_more_often_than_needed(name: str) -> None:
    device = counted(name)
    assert device.waits.total() <= AT_MOST[name], table(name, device)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_square_does_not_wait_for_each_slice(norm: Norm) -> None:
    found = []
    for samples in (SAMPLES, 2 * SAMPLES):
        with Accelerator() as device:
            seeded(square, device, samples, norm)
        found.append(device.waits)
    assert found[0] == found[1]
