"""`nnunet-ima-setup --check`: every link from Python to the data set, and what to do where one is loose."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from nnunet_ima.errors import UserError
from nnunet_ima.nnunet.shim import is_installed
from nnunet_ima.nnunet.trainer_search import DISCOVERY, VARIABLE

FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
LOW_DISK_GB = 10
LOOKUP = (
    "from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find;"
    "print(find('nnUNetTrainerIMA').__module__)"
)


@dataclass(frozen=True)
class Link:
    """What was seen of one link. state: OK, WARN (works, but) or FAIL; remedy where it is not OK."""

    state: str
    name: str
    seen: str
    remedy: str = ""

    def __str__(self) -> str:
        text = f"{self.state:<5} {self.name}: {self.seen}"
        return f"{text}\n      -> {self.remedy}" if self.remedy else text


def check(dataset: str | None) -> bool:
    """Print every link; whether none has failed."""
    failed = False
    for link in links(dataset):
        print(link, flush=True)
        failed |= link.state == "FAIL"
    print("Something is missing, see FAIL above." if failed else "Ready.")
    return not failed


def links(dataset: str | None) -> Iterator[Link]:
    yield Link("OK", "Python", sys.version.split()[0])
    yield from versions()
    yield from folders()
    yield variable()
    yield lookup()
    yield device()
    if dataset is None:
        yield Link("OK", "data set", "not looked at; name one with -d")
    else:
        yield from data_set(dataset)


def versions() -> Iterator[Link]:
    for name, remedy in (("nnunetv2", "pip install 'nnunetv2>=2.8,<3'"), ("torch", "pip install torch")):
        try:
            found = version(name)
        except PackageNotFoundError:
            yield Link("FAIL", name, "not installed", remedy)
            continue
        numbers = tuple(int(part) for part in found.split("+")[0].split(".")[:2])
        if name == "nnunetv2" and not (2, 8) <= numbers < (3, 0):
            yield Link("FAIL", name, f"{found}, but 2.8 is needed", remedy)
        elif name == "torch" and numbers == (2, 9):
            yield Link("FAIL", name, f"{found}, which nnU-Net excludes", "pip install 'torch!=2.9.*'")
        else:
            yield Link("OK", name, found)


def folders() -> Iterator[Link]:
    for name in FOLDERS:
        value = os.environ.get(name)
        if not value:
            yield Link("FAIL", name, "not set", f"export {name}=/your/folder")
        elif not Path(value).is_dir():
            yield Link("FAIL", name, f"{value} is not a folder", f"mkdir -p {value}, or correct the variable")
        elif name != "nnUNet_raw" and not os.access(value, os.W_OK):
            yield Link("FAIL", name, f"{value} cannot be written to", "name another folder, or change its permissions")
        else:
            free = shutil.disk_usage(value).free / 1e9
            low = free < LOW_DISK_GB
            remedy = "training may run out of disk: free some, or move the folder" if low else ""
            yield Link("WARN" if low else "OK", name, f"{value} ({free:.0f} GB free)", remedy)


def variable() -> Link:
    """Our folder in nnU-Net's search path, or the shim in its place."""
    listed = [folder for folder in os.environ.get(VARIABLE, "").split(os.pathsep) if folder.strip()]
    missing = [folder for folder in listed if not Path(folder).is_dir()]
    if missing:
        return Link("WARN", VARIABLE, f"names {', '.join(missing)}, no folder", f"take it out of {VARIABLE}")
    if any(Path(folder).resolve() == DISCOVERY.resolve() for folder in listed):
        return Link("OK", VARIABLE, os.environ[VARIABLE])
    if is_installed():
        return Link("OK", VARIABLE, "not needed, the trainers are installed in nnU-Net")
    remedy = 'eval "$(nnunet-ima-setup)", or nnunet-ima-setup --install'
    return Link("FAIL", VARIABLE, "does not name the folder of the trainers", remedy)


def lookup() -> Link:
    """nnU-Net's own lookup, in a process of its own with this environment."""
    done = subprocess.run([sys.executable, "-c", LOOKUP], capture_output=True, text=True)
    if done.returncode == 0:
        return Link("OK", "nnUNetTrainerIMA", f"found by nnU-Net in {done.stdout.split()[-1]}")
    lines = done.stderr.strip().splitlines() or ["no message"]
    reason = lines[-1].split(". ")[0]
    return Link("FAIL", "nnUNetTrainerIMA", f"not found by nnU-Net ({reason})", "mend the links above first")


def device() -> Link:
    import torch

    if torch.cuda.is_available():
        names = [
            f"{torch.cuda.get_device_name(number)}, {torch.cuda.mem_get_info(number)[1] / 1e9:.0f} GB"
            for number in range(torch.cuda.device_count())
        ]
        return Link("OK", "device", "; ".join(names))
    if torch.backends.mps.is_available():
        return Link("OK", "device", "mps (give -device mps)")
    return Link("WARN", "device", "no GPU", "give -device cpu; nnUNet_n_proc_DA=2 spares small machines")


def data_set(identifier: str) -> Iterator[Link]:
    from nnunet_ima.nnunet.dataset_names import dataset_name
    from nnunet_ima.nnunet.plans import configuration, is_second_stage, read_plans
    from nnunet_ima.segmentation.settings import Settings

    try:
        name = dataset_name(identifier)
        folder = Path(os.environ.get("nnUNet_preprocessed", ".")) / name  # noqa: SIM112 (nnU-Net's spelling)
        files = sorted(file for file in folder.glob("*.json") if "configurations" in json.loads(file.read_text()))
        if not files:
            raise UserError(f"no plans in {folder}: run nnUNetv2_plan_and_preprocess -d {name} -c 2d.")
        yield Link("OK", "data set", name)
        for file in files:
            plans = read_plans(file)
            names = [each for each in plans["configurations"] if not is_second_stage(plans, each)]
            # Nobody has to preprocess what he does not train: of none of them, the first is asked for.
            begun = [each for each in names if (folder / configuration(plans, each)["data_identifier"]).is_dir()]
            block, usual = Settings.of(plans).block(), Settings().block()
            own = [f"{key} {value}" for key, value in flat(block).items() if value != flat(usual).get(key)]
            yield from preprocessed(
                file.stem, folder, plans, begun or names[:1], f"settings: {', '.join(own) or 'default'}"
            )
    except (UserError, json.JSONDecodeError) as error:
        yield Link("FAIL", "data set", str(error).rstrip("."), "see there")


def flat(block: dict[str, Any]) -> dict[str, Any]:
    """The settings of each method beside the others, as `--set` names them: ima.beta."""
    own = {f"{word}.{name}": value for word, values in block["methods"].items() for name, value in values.items()}
    return {key: value for key, value in block.items() if key != "methods"} | own


def preprocessed(name: str, folder: Path, plans: dict[str, Any], fit: list[str], seen: str) -> Iterator[Link]:
    """Whether the cases are there in the form these plans want."""
    from nnunet_ima.nnunet.plans import configuration

    cases = len(list((folder / "gt_segmentations").glob("*"))) if (folder / "gt_segmentations").is_dir() else 0
    for each in fit:
        data = folder / configuration(plans, each)["data_identifier"]
        found = len(list(data.glob("*.pkl"))) if data.is_dir() else 0
        if found < max(cases, 1):
            remedy = f"nnUNetv2_preprocess -d {plans['dataset_name']} -plans_name {name} -c {each}"
            yield Link("FAIL", name, f"{found} of {cases} cases preprocessed for {each}", remedy)
        else:
            yield Link("OK", f"{name} {each}", f"{seen}; {found} cases preprocessed")
