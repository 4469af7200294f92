"""nnunet-ima installed from its wheel, in an environment of its own, and uninstalled again."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import nnunetv2
import pytest

ROOT = Path(__file__).parents[1]
FIND = (
    "from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find;"
    "import sys; print(find(sys.argv[1]))"
)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="the paths of the environment are those of Linux and macOS")
def test_a_wheel_works_and_leaves_nnunet_working_when_it_goes(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "nnUNet_extTrainer")}

    def run(*command: str | Path) -> str:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    # A copy, for building writes into the source folder.
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "demo", "build", "*.egg-info"))
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, source)
    venv.create(tmp_path / "venv", with_pip=True)
    program = tmp_path / "venv" / "bin"
    site = Path(run(program / "python", "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])").strip())
    # nnU-Net's dependencies come from this environment, nnU-Net itself is a copy into which the shim may be written.
    # An editable nnunet_ima there works through a finder of its own .pth file, which is not read from here.
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    shutil.copytree(Path(nnunetv2.__file__).parent, site / "nnunetv2", ignore=shutil.ignore_patterns("__pycache__"))
    run(program / "pip", "install", "-q", "--no-deps", *tmp_path.glob("nnunet_ima-*.whl"))
    assert str(site) in run(program / "python", "-c", "import nnunet_ima; print(nnunet_ima.__file__)")

    line = run(program / "nnunet-ima-setup", "--shell", "sh").strip()
    assert str(site) in line
    shown = run("sh", "-c", f'{line}; "{program}/python" -c "$0" nnUNetTrainerIMA', FIND)
    assert "nnunet_ima.segmentation.trainer.nnUNetTrainerIMA" in shown

    assert str(site) in run(program / "nnunet-ima-setup", "--install")
    assert "nnUNetTrainerIMA" in run(program / "python", "-c", FIND, "nnUNetTrainerIMA")
    run(program / "pip", "uninstall", "-q", "-y", "nnunet-ima")
    assert "nnUNetTrainer_5epochs" in run(program / "python", "-c", FIND, "nnUNetTrainer_5epochs")
