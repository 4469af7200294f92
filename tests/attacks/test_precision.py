"""In which precision attacks run, whatever the training around them does."""

import pytest
import torch

from nnunet_ima.attacks import precision
from nnunet_ima.attacks.precision import attack_precision, training_pass_serves

CPU = torch.device("cpu")


def _computed(wanted: str) -> torch.dtype:
    with attack_precision(CPU, wanted):
        return (torch.ones(2, 2) @ torch.ones(2, 2)).dtype


@pytest.mark.parametrize("outer", [None, torch.float16, torch.bfloat16], ids=str)
def test_float32_and_bfloat16_hold_under_any_autocast_of_the_training(outer: torch.dtype | None) -> None:
    with torch.autocast("cpu", outer, enabled=outer is not None):
        assert _computed("float32") == torch.float32
        assert _computed("bfloat16") == torch.bfloat16
        assert training_pass_serves(CPU, "float32") == (outer is None)
        assert training_pass_serves(CPU, "bfloat16") and training_pass_serves(CPU, "auto")


@pytest.mark.parametrize("native", [True, False])
def test_auto_is_bfloat16_on_processors_that_have_it(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "native_bfloat16", lambda device: native)
    assert _computed("auto") == (torch.bfloat16 if native else torch.float32)


@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_on_an_accelerator_auto_is_what_the_training_has(device: str) -> None:
    """Torch's own switches, which can be set without the device."""
    enabled = torch.is_autocast_enabled(device)
    try:
        for on in (True, False):
            torch.set_autocast_enabled(device, on)
            torch.set_autocast_dtype(device, torch.float16)
            with attack_precision(torch.device(device), "auto"):
                assert torch.is_autocast_enabled(device) == on
                assert torch.get_autocast_dtype(device) == torch.float16
            with attack_precision(torch.device(device), "float32"):
                assert not torch.is_autocast_enabled(device)
            with attack_precision(torch.device(device), "bfloat16"):
                assert torch.get_autocast_dtype(device) == torch.bfloat16
            assert torch.is_autocast_enabled(device) == on
    finally:
        torch.set_autocast_enabled(device, enabled)
