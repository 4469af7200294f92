"""Reports speak of slices; where the samples are volumes, of volumes."""

import re
from collections.abc import Sequence
from typing import Any

WORDS = {"slice": "volume", "slices": "volumes", "Slice": "Volume", "Slices": "Volumes"}


def are_volumes(models: Sequence[dict[str, Any]]) -> bool:
    """Whether all models are 3D; models: summaries of `summary.summarise`."""
    return all(model.get("sample") == "volume" for model in models)


def in_words_of(models: Sequence[dict[str, Any]], text: str) -> str:
    """A finished text or page, with its names of files and anchors, in the words of these models' samples."""
    return re.sub(r"\b[Ss]lices?\b", lambda match: WORDS[match[0]], text) if are_volumes(models) else text
