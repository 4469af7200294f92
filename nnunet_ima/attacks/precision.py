"""Reduced precision for attacks, where it is native and so saves time."""

from contextlib import AbstractContextManager, nullcontext

import torch

PRECISIONS = ("auto", "float32", "bfloat16")


def native_bfloat16(device: torch.device) -> bool:
    """Whether the device computes bfloat16 itself; elsewhere it is emulated and slower than float32."""
    if device.type == "cpu":
        return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def autocast(device: torch.device, wanted: bool) -> AbstractContextManager[object]:
    """bfloat16 autocast if `wanted`, else the precision that holds already."""
    return torch.autocast(device.type, torch.bfloat16) if wanted else nullcontext()


def attack_precision(device: torch.device, wanted: str) -> AbstractContextManager[object]:
    """`float32`: no autocast, whatever holds; `bfloat16`: autocast to it; `auto`: on the CPU bfloat16 where the
    processor has it, else what holds already (on CUDA the training's own float16)."""
    if wanted == "float32":
        return torch.autocast(device.type, enabled=False) if torch.is_autocast_enabled(device.type) else nullcontext()
    return autocast(device, wanted == "bfloat16" or (device.type == "cpu" and native_bfloat16(device)))


def training_pass_serves(device: torch.device, wanted: str) -> bool:
    """Whether the logits of a training step's clean pass are as precise as attacks in the precision `wanted` are to be:
    not those of an autocast for attacks in float32."""
    return wanted != "float32" or not torch.is_autocast_enabled(device.type)
