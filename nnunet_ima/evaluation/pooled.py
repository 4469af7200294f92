"""Several folds, each attacked on the cases that it has not seen, as one: cross-validated robustness."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_ima.errors import UserError
from nnunet_ima.evaluation.calibration import add_pooled_ssim
from nnunet_ima.evaluation.certify import pooled_certificate
from nnunet_ima.evaluation.smallest import pooled_smallest
from nnunet_ima.evaluation.strong_sample import pooled_sample
from nnunet_ima.evaluation.summary import number, summarise
from nnunet_ima.evaluation.sweep import Found, Sweep
from nnunet_ima.segmentation.cases.models import TrainedModel
from nnunet_ima.segmentation.cases.slices import held_out_cases

WORST_FIRST = ("FAIL", "WARN", "PASS")


def check_folds(folds: Sequence[str], preprocessed: Path, data_identifier: str) -> None:
    """UserError where two folds hold out the same case: it would count twice. preprocessed: folder of the data set."""
    seen: dict[str, str] = {}
    for fold in folds:
        for case in held_out_cases(preprocessed, data_identifier, fold):
            if case in seen:
                raise UserError(
                    f"-f {','.join(folds)}: folds {seen[case]} and {fold} both hold out {case}, which would count "
                    "twice; evaluate them one by one, or make splits that share no case."
                )
            seen[case] = fold


def pooled_sweep(sweeps: Sequence[Sweep]) -> Sweep:
    """The slices of all, one after the other. The noises and levels are the same in each."""
    found = {}
    for name, first in sweeps[0].found.items():
        same = [one.found[name] for one in sweeps]
        counts, norms = (np.concatenate([getattr(one, what) for one in same], 1) for what in ("counts", "norms"))
        found[name] = Found(first.noise, first.levels, counts, norms, sum(one.forwards for one in same))
    return Sweep([place for one in sweeps for place in one.slices], found, sum(one.seconds for one in sweeps))


def pooled(
    model: TrainedModel, summaries: Sequence[dict[str, Any]], sweeps: Sequence[Sweep]
) -> tuple[dict[str, Any], Sweep]:
    """Figures and intervals over the cases of all folds, and under "folds" those of each."""
    together = pooled_sweep(sweeps)
    slices = [one["slices"] for one in summaries]
    pixels, units = (
        float(np.median(np.repeat([number(one[key]) for one in summaries], slices)))
        for key in ("pixels", "units_per_sd")
    )
    summary = summarise(
        model, together, summaries[0]["classes"], pixels, units, summaries[0]["unit"] or "", summaries[0]["sample"]
    )
    summary["checkpoint_sha256"] = "+".join(one["checkpoint_sha256"] for one in summaries)
    summary["folds"] = [{key: one[key] for key in ("fold", "cases", "slices", "levels")} for one in summaries]
    add_pooled_ssim(summary, summaries)
    on_request: dict[str, Callable[[list[Any]], Any]] = {
        "strong_sample": pooled_sample,
        "certified": pooled_certificate,
        "smallest": pooled_smallest,
        "audit": _worst_checks,
    }
    for key, combine in on_request.items():
        if all(key in one for one in summaries):
            summary[key] = combine([one[key] for one in summaries])
    return summary, together


def _worst_checks(audits: Sequence[Sequence[dict[str, str]]]) -> list[dict[str, str]]:
    """Of each check the fold that does worst at it."""
    by_name: dict[str, list[dict[str, str]]] = {}
    for audit in audits:
        for check in audit:
            by_name.setdefault(check["name"], []).append(check)
    return [min(checks, key=lambda check: WORST_FIRST.index(check["verdict"])) for checks in by_name.values()]
