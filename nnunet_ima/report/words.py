"""Reports speak of slices; where the samples are volumes or patches, of those."""

import re
from collections.abc import Sequence
from typing import Any

from nnunet_ima.segmentation.cases.slices import PLURALS


def in_words_of(models: Sequence[dict[str, Any]], text: str) -> str:
    """A finished text or page, with its names of files and anchors, in the words of these models' samples; models:
    summaries of `summary.summarise`."""
    samples = {model.get("sample", "slice") for model in models}
    if len(samples) > 1:
        return text
    (sample,) = samples
    words = {"slice": sample, "slices": PLURALS[sample]}
    words |= {word.capitalize(): other.capitalize() for word, other in words.items()}
    return re.sub(r"\b[Ss]lices?\b", lambda match: words[match[0]], text)
