"""What an evaluation found, in at most three plain sentences: what breaks first and at which noise level, how the
models differ, and whether the attack can be trusted."""

from collections.abc import Sequence
from typing import Any

from nnunet_ima.evaluation.audit import worst_verdict
from nnunet_ima.evaluation.strong_sample import largest_gap
from nnunet_ima.evaluation.summary import WORST, number
from nnunet_ima.metrics.comparison import MEAN, WHOLE
from nnunet_ima.metrics.indices import FAILURE_THRESHOLD
from nnunet_ima.metrics.statistics import area_under_curve
from nnunet_ima.report.tables import names
from nnunet_ima.report.words import in_words_of

THRESHOLD = 100 * FAILURE_THRESHOLD
SIGNIFICANT = 0.05
SMALL_GAP = 1.0
"""Percentage points."""
ENOUGH_ATTACKS = ("strong",)


def answer(content: dict[str, Any]) -> list[str]:
    """content: of `tables.results`."""
    models = content["models"]
    sentences = _sentences(content)
    return [in_words_of(models, sentence) for sentence in sentences if sentence]


def _sentences(content: dict[str, Any]) -> list[str]:
    models = content["models"]
    difference = _difference(content) if len(models) > 1 else _against_random(models[0])
    return [_breaks(models), difference, _trust(models)]


def first_below(levels: Sequence[float], values: Sequence[float], threshold: float) -> float | None:
    """The noise level at which a figure first falls to the threshold, linear between the levels; None if it does
    not."""
    for row, value in enumerate(values):
        if value <= threshold:
            if row == 0:
                return levels[0]
            share = (values[row - 1] - threshold) / (values[row - 1] - value)
            return levels[row - 1] + share * (levels[row] - levels[row - 1])
    return None


def strongest(model: dict[str, Any]) -> list[dict[str, Any]]:
    """The levels under the worst of all attacks, under the only one where it is alone."""
    return list(model["others"][WORST]["levels"]) if WORST in model["others"] else list(model["levels"])


def half_level(models: Sequence[dict[str, Any]]) -> int:
    """The row of the noise level at which the attack leaves about half of the Dice without noise, mean of the models:
    there they are compared."""
    curves = [[number(level["adi"]) for level in strongest(model)] for model in models]
    means = [sum(values) / len(values) for values in zip(*curves, strict=True)]
    return min(range(min(1, len(means) - 1), len(means)), key=lambda row: abs(means[row] - means[0] / 2))


def noise_told(model: dict[str, Any], level: float) -> str:
    """A noise level with its size per pixel, in SD and, where that is known, in the units of the images."""
    largest = model["levels"][-1]
    share = level / largest["noise"] if largest["noise"] else 0.0
    sizes = f"{share * largest['rms_per_pixel']:.2g} SD"
    if largest["rms_in_units"] is not None:
        unit = "HU" if model["unit"] == "HU" else f"{model['unit']} of the original images"
        sizes += f", about {share * largest['rms_in_units']:.2g} {unit}"
    per_pixel = "at most, in each pixel" if model["norm"] == "linf" else "RMS per pixel"
    return f"noise level {level:.2g} ({per_pixel}: {sizes})"


def _breaks(models: Sequence[dict[str, Any]]) -> str:
    """Of more than two models only the one that breaks first and the one that lasts longest."""
    broken = [(*_first_structure(model), name, model) for name, model in zip(names(models), models, strict=True)]
    broken.sort(key=lambda one: float("inf") if one[0] is None else one[0])
    shown = broken if len(broken) < 3 else [broken[0], broken[-1]]
    attack = "the worst of the attacks" if WORST in models[0]["others"] else f"the {models[0]['attack']} attack"
    if len(models) == 1:
        return f"Under {attack}, {_break_told(*broken[0][:2], models[0])}."
    parts = [f"in {name}, {_structure_told(level, structure, model)}" for level, structure, name, model in shown]
    return f"Under {attack}, the first structure to fall to a Dice of {THRESHOLD:g} % is: {'; '.join(parts)}."


def _first_structure(model: dict[str, Any]) -> tuple[float | None, str]:
    """The noise level at which the Dice of a structure first falls to the threshold, and which one it is."""
    levels = strongest(model)
    found = []
    for name in model["classes"]:
        values = [number(level["tvdi_per_class"][name]) for level in levels]
        level = first_below([level["noise"] for level in levels], values, THRESHOLD)
        if level is not None:
            found.append((level, values[-1], name))
    return (min(found)[0], min(found)[2]) if found else (None, "")


def _break_told(level: float | None, structure: str, model: dict[str, Any]) -> str:
    if level is None:
        largest = noise_told(model, model["levels"][-1]["noise"])
        return f"every structure stays above a Dice of {THRESHOLD:g} % up to {largest}"
    if level == 0:
        return f"{structure} has a Dice of {THRESHOLD:g} % or less even without noise"
    first = "breaks first" if len(model["classes"]) > 1 else "breaks"
    return f"{structure} {first}: its Dice falls to {THRESHOLD:g} % at {noise_told(model, level)}"


def _structure_told(level: float | None, structure: str, model: dict[str, Any]) -> str:
    if level is None:
        return f"none up to {noise_told(model, model['levels'][-1]['noise'])}"
    return f"{structure} even without noise" if level == 0 else f"{structure} at {noise_told(model, level)}"


def _difference(content: dict[str, Any]) -> str:
    """The two models that keep most Dice over the noise levels, at the level at which half of it is lost."""
    models, labels = content["models"], names(content["models"])
    areas = [_area(model) for model in models]
    best, second = sorted(range(len(models)), key=lambda index: -areas[index])[:2]
    level = strongest(models[best])[half_level([models[best], models[second]])]["noise"]
    row = next((row for row in content["comparisons"] if _compares(row, best, second, level)), None)
    if row is None or row["mean"] is None:
        return ""
    sign = 1 if row["first"] == best else -1
    points = f"{abs(row['mean']):.1f} points {'more' if sign * row['mean'] >= 0 else 'less'}"
    of = " of whole cases" if row["class"] == WHOLE else ""
    head = (
        f"At noise level {level:g} of {models[best]['attack']}, {labels[best]} keeps {points} mean Dice{of} than "
        f"{labels[second]}"
    )
    if row.get("differences") is not None:
        each = sorted(sign * value for value in row["differences"].values())
        return f"{head} ({each[0]:+.1f} to {each[-1]:+.1f} in its {row['cases']} cases, too few for a test)."
    p = "p < 0.001" if row["p"] < 0.001 else f"p = {row['p']:.2g}"
    verdict = "" if row["p"] < SIGNIFICANT else "; chance alone could explain it"
    return f"{head} (paired test over {row['cases']} cases, {p}{verdict})."


def _area(model: dict[str, Any]) -> float:
    levels = strongest(model)
    return area_under_curve([level["noise"] for level in levels], [number(level["adi"]) for level in levels])


def _compares(row: dict[str, Any], one: int, other: int, level: float) -> bool:
    return {row["first"], row["second"]} == {one, other} and row["noise"] == level and row["class"] in (MEAN, WHOLE)


def _against_random(model: dict[str, Any]) -> str:
    level = strongest(model)[half_level([model])]
    clean = model["levels"][0]["adi"]
    if level["adi"] is None or clean is None:
        return ""
    low, high = level["adi_interval"]
    interval = "" if low is None or high is None else f" (95 % interval {low:.0f} to {high:.0f})"
    random = next((one["adi_noise"] for one in model["levels"] if one["noise"] == level["noise"]), None)
    beside = "" if random is None else f", random noise of the same size {random:.0f} %"
    return (
        f"At noise level {level['noise']:g} the attack leaves a mean Dice of {level['adi']:.0f} %{interval}{beside}; "
        f"without noise it is {clean:.0f} %."
    )


def _flattery(models: Sequence[dict[str, Any]]) -> str:
    """What `strong` found on a sample of slices, of the model that the main attack flatters most."""
    gaps = [(*largest_gap(model["strong_sample"]), name) for model, name in zip(models, names(models), strict=True)]
    gap, level, name = max(gaps)
    attack, slices = models[0]["attack"].upper(), models[0]["strong_sample"]["slices"]
    advice = "for the figures of all slices ask for --attack pgd,strong and --audit"
    if gap < SMALL_GAP:
        return f"On a sample of {slices} slices a stronger attack found hardly more than {attack}; {advice}."
    of = f" of {name}" if len(models) > 1 else ""
    return (
        f"{attack} overstates the Dice{of} at noise level {level:g} by about {gap:.0f} points, as a stronger attack "
        f"shows on a sample of {slices} slices; {advice}."
    )


def _trust(models: Sequence[dict[str, Any]]) -> str:
    audits = {name: model["audit"] for name, model in zip(names(models), models, strict=True) if model.get("audit")}
    doubtful = {name: checks for name, checks in audits.items() if worst_verdict(checks) != "PASS"}
    if doubtful:
        count = sum(check["verdict"] != "PASS" for checks in doubtful.values() for check in checks)
        total = sum(map(len, audits.values()))
        return (
            f"Take the figures of {' and '.join(doubtful)} with care: {count} of the {total} checks of the attack did "
            "not pass, so a stronger attack may leave less than shown."
        )
    if len(audits) == len(models):
        return f"The attack passed all of its {sum(map(len, audits.values()))} checks."
    attacks = {models[0]["attack"], *(models[0]["others"])}
    if all("strong_sample" in model for model in models):
        return _flattery(models)
    if attacks.isdisjoint(ENOUGH_ATTACKS):
        return (
            f"The attack itself was not checked, and {models[0]['attack'].upper()} alone tends to flatter a model: for "
            "a firmer answer ask for --attack pgd,strong and --audit."
        )
    return "The strong attack is among those used, but it was not checked: --audit does that."
