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
    """On the CPU bfloat16 if `wanted` says so, or is `auto` and the processor has it; elsewhere what holds already."""
    chosen = wanted == "bfloat16" or (wanted == "auto" and native_bfloat16(device))
    return autocast(device, device.type == "cpu" and chosen)
