"""Training and attacking a classifier through the command, on small generated images."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from nnunet_ima.classification.data import Images, find_images, load, read_split, split_folder, write_split
from nnunet_ima.classification.images import read_image
from nnunet_ima.classification.model import build
from nnunet_ima.classification.report import summary, write
from nnunet_ima.classification.robustness import Answers, auc_with_interval, figures
from nnunet_ima.classification.settings import Settings, read_settings
from nnunet_ima.classification.train import Training
from nnunet_ima.cli.classify import classify
from nnunet_ima.cli.soup import soup
from nnunet_ima.errors import UserError
from nnunet_ima.methods.registry import methods

SIZE = 40


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright discs left or right of the middle, on noise: 24 images of each class."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    for name, centre in (("left", 12), ("right", 28)):
        (folder / name).mkdir()
        for number in range(24):
            row, column = centre + rng.normal(0, 1), 20 + rng.normal(0, 4)
            disc = 140.0 * ((rows - column) ** 2 + (columns - row) ** 2 < 40)
            image = (60 + disc + rng.normal(0, 12, (SIZE, SIZE))).clip(0, 255).astype(np.uint8)
            Image.fromarray(image).save(folder / name / f"{number:02d}.png")
    return folder


def _train(data: Path, run: Path, *flags: str) -> dict[str, Any]:
    classify(
        [
            "train",
            "--data",
            str(data),
            "--output",
            str(run),
            "--image-size",
            str(SIZE),
            "--epochs",
            "3",
            "--batch-size",
            "8",
            "--steps",
            "4",
            "--learning-rate",
            "0.001",
            "-device",
            "cpu",
            *([] if "ce" in flags else ["--noise-max", "3"]),
            *flags,
        ]
    )
    state: dict[str, Any] = torch.load(run / "checkpoint_final.pth", weights_only=True)
    return state


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    for method in ("ce", "ima", "adv"):
        _train(data, folder / method, "--method", method)
    return {method: folder / method for method in ("ce", "ima", "adv")}


@pytest.mark.parametrize("method", ["ce", "ima", "adv"])
def test_a_training_learns_and_leaves_its_files(runs: dict[str, Path], method: str) -> None:
    rows = list(csv.DictReader((runs[method] / "log.csv").open()))
    assert len(rows) == 3 and float(rows[-1]["loss"]) < float(rows[0]["loss"])
    names = ["settings.json", "split.csv", "progress.png", "checkpoint_best.pth", "checkpoint_final.pth"]
    for name in [*names, *(["margins.png", "margins.csv"] if method == "ima" else [])]:
        assert (runs[method] / name).is_file(), name
    assert not (runs[method] / "checkpoint_latest.pth").exists()


def test_a_remark_of_the_method_is_printed(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["train", "--data", str(data), "--output", str(tmp_path / "run"), "--image-size", str(SIZE)]
    classify([*common, "--epochs", "1", "--method", "iaat", "--steps", "1", "-device", "cpu"])
    assert "IAAT: warm_up 5 takes all of the epochs, 1" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ima", "adv"])
def test_the_same_seed_gives_the_same_and_an_interruption_changes_nothing(
    data: Path, runs: dict[str, Path], tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    validate, calls = Training._validate, iter(range(99))

    def interrupted(self: Training) -> float:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return validate(self)

    monkeypatch.setattr(Training, "_validate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _train(data, tmp_path, "--method", method)
    monkeypatch.undo()
    with pytest.raises(UserError, match="holds a training already: continue it with --c"):
        _train(data, tmp_path, "--method", method)
    continued = _train(data, tmp_path, "--method", method, "--c")
    first = torch.load(runs[method] / "checkpoint_final.pth", weights_only=True)
    for name, value in first["model"].items():
        assert torch.equal(value, continued["model"][name]), name
    if method == "ima":
        assert torch.equal(first["store"]["margins"], continued["store"]["margins"])


def test_a_model_is_hardened_from_where_it_was(data: Path, runs: dict[str, Path], tmp_path: Path) -> None:
    start = runs["ce"] / "checkpoint_final.pth"
    # With a learning rate of 0 the weights stay what they were.
    hardened = _train(data, tmp_path / "hardened", "--pretrained", str(start), "--learning-rate", "0", "--epochs", "1")
    given = torch.load(start, weights_only=True)["model"]
    assert all(torch.equal(hardened["model"][name], weight) for name, weight in given.items())
    assert read_settings(tmp_path / "hardened")[0].pretrained == str(start)


def test_a_model_of_other_classes_gives_all_but_its_last_layer(
    data: Path, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = runs["ce"] / "checkpoint_final.pth"
    given = torch.load(start, weights_only=True)
    images = Images(torch.zeros(2, 1, SIZE, SIZE), torch.tensor([0, 1]), ["a", "b"], ["", ""])
    settings = Settings(method="ce", image_size=SIZE)
    training = Training(settings, tmp_path, images, images, ["no", "yes"], torch.device("cpu"))
    training.start_from(start)
    assert "knows other classes (left, right): the last layer starts anew" in capsys.readouterr().out
    now = training.model.state_dict()
    same = {name for name, weight in given["model"].items() if torch.equal(now[name], weight)}
    assert given["model"].keys() - same == {"network.fc.weight", "network.fc.bias"}


def test_margins_move(runs: dict[str, Path]) -> None:
    store = torch.load(runs["ima"] / "checkpoint_final.pth", weights_only=True)["store"]
    assert store["visits"].sum() > 0 and store["margins"].unique().numel() > 1
    assert store["margins"].min() >= 0 and store["margins"].max() <= 3


def test_an_evaluation_tells_how_accuracy_falls(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classify(
        [
            "eval",
            "--model",
            str(runs["ima"]),
            "--noise",
            "1,6",
            "--steps",
            "8",
            "--attack",
            "random,fgsm,ifgsm,pgd,strong",
            "--suggest-noise",
            "-o",
            str(tmp_path),
            "-device",
            "cpu",
        ]
    )
    everything = json.loads((tmp_path / "results.json").read_text())
    content = everything["models"][0]
    accuracy = {name: [row["accuracy"][0] for row in rows] for name, rows in content["attacks"].items()}
    assert len({values[0] for values in accuracy.values()}) == 1
    for values in zip(accuracy["random"], accuracy["pgd"], accuracy["strong"], strict=True):
        assert values[0] >= values[1] >= values[2] - 11
    assert accuracy["pgd"][2] < accuracy["pgd"][0]
    assert (
        content["attacks"]["pgd"][0]["accuracy"][1] <= accuracy["pgd"][0] <= content["attacks"]["pgd"][0]["accuracy"][2]
    )
    store = torch.load(runs["ima"] / "checkpoint_final.pth", weights_only=True)["store"]
    assert content["suggested_noise"] == pytest.approx(store["margins"][store["visits"] > 0].median().item())
    rows = list(csv.DictReader((tmp_path / "images.csv").open()))
    right = [int(row["right"]) for row in rows if row["attack"] == "pgd" and row["noise"] == "1"]
    assert 100 * np.mean(right) == pytest.approx(accuracy["pgd"][1], abs=0.01)
    printed = capsys.readouterr().out
    assert "sensitivity right = specificity left (%)" in printed and "sensitivity left (%)" in printed
    assert "White noise of +-0.05 flips" in printed
    for name in ("robustness.png", "robustness.svg", "flips.png"):
        assert (tmp_path / name).is_file(), name
    text = (tmp_path / "report.html").read_text()
    assert (
        text.count("data:image/png") == 2
        and "<svg" in text
        and f"{accuracy['pgd'][1]:.1f}" in text
        and "ima: strong" in text
    )


@pytest.mark.slow
def test_runs_are_compared_and_foolbox_finds_no_more_than_ours(runs: dict[str, Path], tmp_path: Path) -> None:
    classify(
        [
            "eval",
            "--model",
            str(runs["ce"]),
            str(runs["ima"]),
            "--noise",
            "2",
            "--steps",
            "20",
            "--attack",
            "strong,ddn",
            "-o",
            str(tmp_path),
            "-device",
            "cpu",
        ]
    )
    content = json.loads((tmp_path / "results.json").read_text())
    assert [model["name"] for model in content["models"]] == ["ce", "ima"]
    text = (tmp_path / "report.html").read_text()
    for model in content["models"]:
        accuracy = {name: [row["accuracy"][0] for row in rows] for name, rows in model["attacks"].items()}
        # 8 test images: one of them is 12.5 percent.
        assert accuracy["strong"][1] <= accuracy["ddn"][1] + 12.5, model["name"]
        assert f"{model['name']}: ddn" in text and (tmp_path / model["name"] / "report.html").is_file()
    assert accuracy["strong"][1] < accuracy["strong"][0]


def test_a_mix_of_two_classifiers_is_a_run_of_its_own(
    data: Path, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, out = runs["ima"] / "checkpoint_best.pth", tmp_path / "soup"
    told = ["--run", str(runs["ima"]), "--noise", "1", "--steps", "2", "-o", str(out), "-device", "cpu"]
    soup([*told, "--plain", str(plain), "--share", "0.5"])
    assert "Chosen: 0.5 of the hardened model" in capsys.readouterr().out
    first, last, mix = (
        torch.load(file, weights_only=True)["model"]
        for file in (plain, runs["ima"] / "checkpoint_final.pth", out / "checkpoint_final.pth")
    )
    assert all(torch.allclose(mix[name], torch.lerp(first[name], last[name], 0.5), atol=1e-6) for name in mix)
    classify(["eval", "--model", str(out), "--noise", "1", "--attack", "fgsm", "-device", "cpu"])
    assert (out / "robustness" / "report.html").is_file() and (out / "soup.png").is_file()
    state = torch.load(plain, weights_only=True) | {"classes": ["up", "down"]}
    torch.save(state, tmp_path / "other.pth")
    for file, why in ((tmp_path / "other.pth", "knows other classes than"), (tmp_path / "no.pth", "--plain")):
        with pytest.raises(UserError, match=why):
            soup([*told[:-4], "-o", str(tmp_path / "none"), "-device", "cpu", "--plain", str(file)])
    assert not (tmp_path / "none").exists()


BUDGETED = [pytest.param(word, marks=[] if word == "ima" else pytest.mark.slow) for word in methods()]


@pytest.mark.parametrize("method", BUDGETED)
def test_budget_average_and_weight_noise_and_an_interruption_changes_nothing(
    method: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ("--method", method, "--budget", "60", "--ema", "0.5", "--awp", "0.01")
    level = () if method in ("ce", "smd", "iaat") else ("--noise-max", "3")
    steps = () if method == "ce" else ("--steps", "4")

    def trained(run: Path, *more: str) -> dict[str, Any]:
        common = ["train", "--data", str(data), "--output", str(run), "--image-size", str(SIZE), "--epochs", "2"]
        classify([*common, "--batch-size", "8", "-device", "cpu", *flags, *level, *steps, *more])
        state: dict[str, Any] = torch.load(run / "checkpoint_final.pth", weights_only=True)
        return state

    first = trained(tmp_path / "first")
    assert first["spent"] == pytest.approx(60, abs=40)
    with (tmp_path / "first" / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["forwards"]) == pytest.approx(first["spent"], rel=1e-4)
    assert first["average"]["shown"] and first["average"]["steps"] == sum(int(float(row["steps"])) for row in rows)

    epoch = Training._train_epoch

    def interrupted(training: Training, steps: int) -> float:
        if training.epoch == 1:
            raise KeyboardInterrupt
        return epoch(training, steps)

    monkeypatch.setattr(Training, "_train_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "second")
    monkeypatch.setattr(Training, "_train_epoch", epoch)
    second = trained(tmp_path / "second", "--c")
    assert all(torch.equal(first["model"][name], value) for name, value in second["model"].items())


def test_the_auc_is_scikit_learns_and_its_interval_that_of_resampled_patients() -> None:
    rng = np.random.default_rng(0)
    positive = np.arange(120) % 3 == 0
    scores = (rng.normal(size=120) + positive).round(1)
    groups = [str(number // 2) for number in range(120)]
    value, low, high = auc_with_interval(scores, positive, groups)
    assert value == pytest.approx(100 * roc_auc_score(positive, scores), abs=0.01)
    resampled = []
    for _ in range(400):
        drawn = rng.integers(0, 60, 60)
        rows = np.concatenate([2 * drawn, 2 * drawn + 1])
        resampled.append(100 * roc_auc_score(positive[rows], scores[rows]))
    assert [low, high] == pytest.approx(np.percentile(resampled, [2.5, 97.5]), abs=1.5)


def test_one_patient_alone_has_no_interval(tmp_path: Path) -> None:
    """Nothing says how much another patient would differ: no interval, not one of width 0."""
    rng = np.random.default_rng(0)
    images = Images(torch.zeros(20, 1, 4, 4), torch.arange(20) % 2, [f"{row}.png" for row in range(20)], ["a"] * 20)
    probabilities = rng.dirichlet((1, 1), 20)
    found = figures(Answers(probabilities, probabilities.argmax(1) == images.y.numpy()), images, ["left", "right"])
    assert len(found) == 4
    for name, (value, low, high) in found.items():
        assert 0 <= value <= 100 and low is None and high is None, name
    model = {
        "name": "run",
        "method": "ce",
        "run": "run",
        "classes": ["left", "right"],
        "images": 20,
        "part": "test",
        "attacks": {"pgd": [found, found]},
        "white_noise": {"0.05": 0.0},
        "checkpoint_sha256": "0" * 64,
    }
    assert "None" not in summary(model, [0, 1]) and "nan" not in summary(model, [0, 1])
    shared = {"noise": [0, 1], "norm": "l2", "steps": 1, "device": "cpu", "command": "", "versions": {}, "date": ""}
    write(tmp_path, {"models": [model], **shared}, [None], [None])
    content = json.loads((tmp_path / "results.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert content["models"][0]["attacks"]["pgd"][0]["auc"][1:] == [None, None]
    assert "None" not in (tmp_path / "report.html").read_text()
    # Two patients have one.
    images.groups[::3] = ["b"] * len(images.groups[::3])
    two = figures(Answers(probabilities, probabilities.argmax(1) == images.y.numpy()), images, ["left", "right"])
    assert two["accuracy"][1] < two["accuracy"][0] < two["accuracy"][2]


def test_noise_is_within_the_level_and_the_range(data: Path) -> None:
    from nnunet_ima.classification.robustness import attacks

    images = load(split_folder(data, 0), "test", SIZE)
    model = build(2, 1, 0).eval()
    for norm, level in (("l2", 2.0), ("linf", 0.1)):
        for name, attack in attacks(4, norm).items():  # type: ignore[arg-type]
            if (name, norm) == ("ddn", "linf"):
                continue
            draws = [torch.Generator().manual_seed(row) for row in range(len(images))]
            for noisy in attack(model, images.x, images.y, level, draws):
                size = (noisy - images.x).flatten(1).norm(dim=1, p=2 if norm == "l2" else torch.inf)
                assert (size <= level * (1 + 1e-5)).all(), name
                assert noisy.min() >= 0 and noisy.max() <= 1


def test_a_model_maps_intensities_itself_and_answers_alike_in_both_modes() -> None:
    model = build(3, 1, 0)
    x = torch.rand(4, 1, 64, 64)
    with torch.no_grad():
        together, alone = model.train()(x), model.eval()(x[2:3])
        torch.testing.assert_close(together[2:3], alone, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(model(x), model.network(2 * x - 1))
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())


def test_the_split_is_stratified_seeded_and_written(data: Path, tmp_path: Path) -> None:
    split = split_folder(data, 3, test=5, validation=2)
    counts = {
        (part, label): sum(item.part == part and item.label == label for item in split.items)
        for part in ("train", "validation", "test")
        for label in ("left", "right")
    }
    assert set(counts.values()) == {17, 2, 5}
    assert split == split_folder(data, 3, test=5, validation=2) != split_folder(data, 4, test=5, validation=2)
    write_split(split, tmp_path / "split.csv")
    again = read_split(data, tmp_path / "split.csv")
    assert sorted(again.items, key=str) == sorted(split.items, key=str)


def test_images_of_every_format(tmp_path: Path) -> None:
    array = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    Image.fromarray(array).save(tmp_path / "grey.png")
    Image.fromarray(array.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(np.stack([array] * 3, -1)).save(tmp_path / "colour.jpg", quality=100)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array.astype(np.float32)), str(tmp_path / "slice.nii.gz"))
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array.astype(np.int16)[None]), str(tmp_path / "slice.dcm"))
    expected = torch.from_numpy(array / 255).float()[None]
    torch.testing.assert_close(read_image(tmp_path / "grey.png", 8), expected)
    torch.testing.assert_close(read_image(tmp_path / "deep.png", 8), expected)
    torch.testing.assert_close(read_image(tmp_path / "colour.jpg", 8), expected, atol=0.03, rtol=0)
    for name in ("slice.nii.gz", "slice.dcm"):
        torch.testing.assert_close(read_image(tmp_path / name, 8), expected * 255 / 252, atol=1e-4, rtol=0)
    stack = np.stack([array, array[::-1], array.T, array, array], -1).astype(np.float32)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(stack, isVector=True), str(tmp_path / "five.nii.gz"))
    five = read_image(tmp_path / "five.nii.gz", 8, channels=5)
    torch.testing.assert_close(five, torch.from_numpy(stack).permute(2, 0, 1) / 252, atol=1e-4, rtol=0)
    assert build(2, 5, 0).eval()(read_image(tmp_path / "five.nii.gz", 64, channels=5)[None]).shape == (1, 2)
    with pytest.raises(UserError, match=r"five\.nii\.gz cannot be read \(it has 5 channels, not 3\)"):
        read_image(tmp_path / "five.nii.gz", 8, channels=3)
    with pytest.raises(UserError, match=r"a picture has 1, 3 or 4 channels, not 5"):
        read_image(tmp_path / "grey.png", 8, channels=5)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros((3, 8, 8), np.float32)), str(tmp_path / "volume.nii.gz"))
    with pytest.raises(UserError, match="it is no single slice but has the shape 3 x 8 x 8"):
        read_image(tmp_path / "volume.nii.gz", 8)
    small = read_image(tmp_path / "grey.png", 4, channels=3)
    assert small.shape == (3, 4, 4) and torch.equal(small[0], small[2])


def test_mistakes_are_one_sentence(
    data: Path, runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(match: str, *flags: str) -> None:
        with pytest.raises(UserError, match=match):
            classify([*flags, "-device", "cpu"])

    one = tmp_path / "one"
    (one / "only").mkdir(parents=True)
    train = ("train", "--output", str(tmp_path / "run"), "--image-size", str(SIZE))
    refused("the class folders only hold no images", *train, "--data", str(one))
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(one / "only" / "a.png")
    refused("has 1 class folders, two or more are needed", *train, "--data", str(one))
    refused("is not a folder", *train, "--data", str(tmp_path / "nowhere"))
    refused("leave nothing of the 24 images", *train, "--data", str(data), "--test", "24")
    refused("beta of IMA must be a number from 0 to 1, got 3.0", *train, "--data", str(data), "--beta", "3")
    refused("image_size must be above 32, got 32", *train, "--data", str(data), "--image-size", "32")
    refused("holds no interrupted training", *train, "--data", str(data), "--c")
    refused("holds no run of nnunet-ima-classify", "eval", "--model", str(one), "--noise", "1")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    refused(
        "--attack fmn is Foolbox's: install it",
        "eval",
        "--model",
        str(runs["ce"]),
        "--noise",
        "1",
        "--attack",
        "fmn",
        "-o",
        str(tmp_path / "o"),
    )
    monkeypatch.undo()
    shutil.copytree(runs["ce"], tmp_path / "other_split")
    split = (tmp_path / "other_split" / "split.csv").read_text()
    (tmp_path / "other_split" / "split.csv").write_text(
        split.replace(",test,", ",x,").replace(",train,", ",test,").replace(",x,", ",train,")
    )
    refused("have other test images", "eval", "--model", str(runs["ce"]), str(tmp_path / "other_split"), "--noise", "1")
    stored = json.loads((tmp_path / "other_split" / "settings.json").read_text()) | {"norm": "linf"}
    (tmp_path / "other_split" / "settings.json").write_text(json.dumps(stored))
    refused("differ in norm", "eval", "--model", str(runs["ce"]), str(tmp_path / "other_split"), "--noise", "1")
    (tmp_path / "other_split" / "checkpoint_latest.pth").touch()
    refused(
        "was begun with method ce, not ima",
        "train",
        "--data",
        str(data),
        "--c",
        "--output",
        str(tmp_path / "other_split"),
        "--image-size",
        str(SIZE),
        "--epochs",
        "3",
        "--batch-size",
        "8",
    )
    refused("Adv needs a noise level: give --noise-max", *train, "--data", str(data), "--method", "adv")
    refused(
        "TRADES has no setting margin_step; it has",
        *train,
        "--data",
        str(data),
        "--method",
        "trades",
        "--margin-step",
        "2",
    )
    refused(
        "--set mail.gamma is a setting of mail, --method is ima", *train, "--data", str(data), "--set", "mail.gamma=1"
    )
    refused(
        "SMD has no noise level: leave --noise-max out",
        *train,
        "--data",
        str(data),
        "--method",
        "smd",
        "--noise-max",
        "2",
    )
    refused(
        "cannot be loaded .*: name another with --pretrained",
        *train,
        "--data",
        str(data),
        "--pretrained",
        str(data / "left" / "00.png"),
    )
    refused(
        "is of another network: give one with the same --channels",
        *train,
        "--data",
        str(data),
        "--pretrained",
        str(runs["ce"] / "checkpoint_final.pth"),
        "--channels",
        "3",
    )
    refused(
        r"was trained with \d+ of the \d+ test images: split alike",
        *train,
        "--data",
        str(data),
        "--pretrained",
        str(runs["ce"] / "checkpoint_final.pth"),
        "--seed",
        "1",
    )
    refused("There is no method 'pgd'; known: ce, ima", *train, "--data", str(data), "--method", "pgd")
    refused("two runs have the same name", "eval", "--model", str(runs["ce"]), str(runs["ce"]), "--noise", "1")
    refused(
        "--suggest-noise needs margins",
        "eval",
        "--model",
        str(runs["ce"]),
        "--noise",
        "1",
        "--suggest-noise",
        "--steps",
        "1",
        "-o",
        str(tmp_path / "o"),
    )
    other = tmp_path / "other"
    for name in ("left", "up"):
        (other / name).mkdir(parents=True)
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(other / name / "a.png")
    refused(
        "has the classes left, up, the model knows left, right",
        "eval",
        "--model",
        str(runs["ce"]),
        "--noise",
        "1",
        "--data",
        str(other),
    )


def test_broken_images_are_named_and_counted_or_left_out(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    for number in (3, 4):
        file = tmp_path / "data" / "left" / f"{number:02d}.png"
        file.write_bytes(file.read_bytes()[:60])
    split = split_folder(tmp_path / "data", 0, test=1, validation=1)
    broken = sum(item.file in ("left/03.png", "left/04.png") for item in split.part("train"))
    with pytest.raises(UserError, match=rf"{broken} of 44 images cannot be used.*left/0[34]\.png cannot be read"):
        load(split, "train", SIZE)
    assert len(load(split, "train", SIZE, skip_broken=True)) == 44 - broken
    assert len(find_images(tmp_path / "data")["left"]) == 24


def test_a_csv_is_checked(data: Path, tmp_path: Path) -> None:
    def refused(match: str, *rows: str) -> None:
        (tmp_path / "split.csv").write_text("\n".join(("file,label,split,group", *rows)) + "\n")
        with pytest.raises(UserError, match=match):
            read_split(data, tmp_path / "split.csv")

    refused("names 1 files that are not in", "left/00.png,left,train,a", "left/99.png,left,test,b")
    refused("has the splits holdout", "left/00.png,left,holdout,a")
    refused("a is in test and train; keep it in one split", "left/00.png,left,train,a", "right/00.png,right,test,a")
    refused("left/00.png is in test and train", "left/00.png,left,train,", "left/00.png,left,test,")
    refused("has 1 class, two or more", "left/00.png,left,train,a")
    (tmp_path / "split.csv").write_text("file,label\nleft/00.png,left\n")
    with pytest.raises(UserError, match="has no columns split"):
        read_split(data, tmp_path / "split.csv")
