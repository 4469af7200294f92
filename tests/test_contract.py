"""Every private piece of nnU-Net (and of its data loaders) that nnunet_ima relies on.

If a row fails, nnU-Net has moved: the file of ours that the row names must follow.
"""

import importlib
import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TRAINER = "nnunetv2.training.nnUNetTrainer.nnUNetTrainer"
PREDICTOR = "nnunetv2.inference.predict_from_raw_data"
WINDOW = "nnunetv2.inference.sliding_window_prediction"
LOADER = "nnunetv2.training.dataloading.data_loader"
LABELS = "nnunetv2.utilities.label_handling.label_handling"
PLANS = "nnunetv2.utilities.plans_handling.plans_handler"
RUN = "nnunetv2.run.run_training"

# (our file, module, name, what its source must say)
TEXTS = [
    (
        "trainer.py: the loss is called once, on what the network gives",
        TRAINER,
        "nnUNetTrainer.train_step",
        ["data.to(self.device", "output = self.network(data)", "self.loss(output, target)", "return {'loss'"],
    ),
    (
        "trainer.py: losses of the ranks are gathered first",
        TRAINER,
        "nnUNetTrainer.on_train_epoch_end",
        ["collate_outputs(train_outputs)", "self.logger.log('train_losses'"],
    ),
    (
        "trainer.py: weights under these keys, rank 0 only",
        TRAINER,
        "nnUNetTrainer.save_checkpoint",
        [
            "self.local_rank == 0",
            "disable_checkpointing",
            "torch.save(checkpoint, filename)",
            "'network_weights'",
            "'current_epoch'",
            "'trainer_name'",
            "'init_args'",
        ],
    ),
    ("trainer.py: initialises if need be", TRAINER, "nnUNetTrainer.load_checkpoint", ["self.initialize()"]),
    ("loader.py: the class is a global of the module", TRAINER, "nnUNetTrainer.get_dataloaders", ["nnUNetDataLoader("]),
    ("trainer.py: the loss of several ranks", TRAINER, "nnUNetTrainer._build_loss", ["'ddp': self.is_ddp"]),
    (
        "trainer.py: compile, then DDP around it",
        TRAINER,
        "nnUNetTrainer.initialize",
        ["self._do_i_compile()", "torch.compile(self.network)", "DDP(self.network", "self.loss = self._build_loss()"],
    ),
    (
        "trainer.py: deep supervision of the inner network",
        TRAINER,
        "nnUNetTrainer.set_deep_supervision_enabled",
        ["self.network.module", "decoder.deep_supervision = enabled"],
    ),
    (
        "plain_trainer.py: lengths are attributes, set in __init__",
        TRAINER,
        "nnUNetTrainer.__init__",
        [
            "self.num_epochs =",
            "self.num_iterations_per_epoch =",
            "self.num_val_iterations_per_epoch =",
            "self.save_every =",
            "self.was_initialized = False",
            "continue_training",
        ],
    ),
    (
        "plain_trainer.py: times of an epoch",
        TRAINER,
        "nnUNetTrainer.on_epoch_end",
        ["'epoch_end_timestamps'", "self.save_every", "checkpoint_latest.pth"],
    ),
    ("trainer.py: attributes go to debug.json as text", TRAINER, "nnUNetTrainer._save_debug_information", ["str("]),
    (
        "slices.py: the split",
        TRAINER,
        "nnUNetTrainer.do_split",
        ["self.dataset_class", "self.preprocessed_dataset_folder_base", "self.print_to_log_file"],
    ),
    (
        "loader.py: one bounding box per sample",
        LOADER,
        "nnUNetDataLoader.generate_train_batch",
        ["self.get_bbox(", "'keys'"],
    ),
    ("loader.py: a 2D patch is one slice", LOADER, "nnUNetDataLoader.__init__", ["patch_size_was_2d"]),
    ("identifiers.py: D4 is read by int()", RUN, "get_trainer_from_args", ["int(dataset_name_or_id)"]),
    (
        "pretrained.py: a global, called after initialize()",
        RUN,
        "maybe_load_checkpoint",
        [
            "nnunet_trainer.initialize()",
            "load_pretrained_weights(nnunet_trainer.network, pretrained_weights_file",
            "checkpoint_final.pth",
            "checkpoint_latest.pth",
            "checkpoint_best.pth",
        ],
    ),
    (
        "pretrained.py: heads are left out by name",
        "nnunetv2.run.load_pretrained_weights",
        "load_pretrained_weights",
        [".seg_layers.", "'network_weights'"],
    ),
    (
        "models.py: what a checkpoint must hold",
        PREDICTOR,
        "nnUNetPredictor.initialize_from_trained_model_folder",
        ["'network_weights'", "'trainer_name'", "recursive_find_trainer_class_by_name"],
    ),
    (
        "tiles.py: how the predictor pads",
        PREDICTOR,
        "nnUNetPredictor.predict_sliding_window_return_logits",
        ["pad_nd_image(", "'constant', {'value': 0}"],
    ),
    (
        "finding.py: the search path",
        "nnunetv2.utilities.find_objects",
        "recursive_find_trainer_class_by_name",
        ["nnUNet_extTrainer", "os.pathsep"],
    ),
    (
        "intensities.py: nonzero crop, then normalisation",
        "nnunetv2.preprocessing.preprocessors.default_preprocessor",
        "DefaultPreprocessor.run_case_npy",
        ["crop_to_nonzero(data, seg)", "self._normalize(data, seg"],
    ),
    (
        "export.py: the layout of a model zip",
        "nnunetv2.model_sharing.model_import",
        "install_model_from_zip_file",
        ["extractall(nnUNet_results)"],
    ),
]

# (our file, module, name, parameters it must take, in this order)
SIGNATURES = [
    (
        "plain_trainer.py",
        TRAINER,
        "nnUNetTrainer.__init__",
        ["self", "plans", "configuration", "fold", "dataset_json", "device"],
    ),
    ("tiles.py", WINDOW, "compute_gaussian", ["tile_size", "sigma_scale", "value_scaling_factor"]),
    ("tiles.py", WINDOW, "compute_steps_for_sliding_window", ["image_size", "tile_size", "tile_step_size"]),
    ("pretrained.py", RUN, "load_pretrained_weights", ["network", "fname", "verbose"]),
    (
        "models.py",
        PREDICTOR,
        "nnUNetPredictor.initialize_from_trained_model_folder",
        ["self", "model_training_output_dir", "use_folds", "checkpoint_name"],
    ),
    ("intensities.py", "nnunetv2.preprocessing.cropping.cropping", "crop_to_nonzero", ["data", "seg"]),
    (
        "intensities.py",
        "nnunetv2.utilities.utils",
        "get_filenames_of_train_images_and_targets",
        ["raw_dataset_folder", "dataset_json"],
    ),
    ("identifiers.py", "nnunetv2.utilities.dataset_name_id_conversion", "find_candidate_datasets", ["dataset_id"]),
    ("slices.py", "nnunetv2.training.dataloading.nnunet_dataset", "infer_dataset_class", ["folder"]),
    ("slices.py", "acvl_utils.cropping_and_padding.padding", "pad_nd_image", ["image", "new_shape", "mode", "kwargs"]),
]

# (our file, module, class, attributes that must be there)
ATTRIBUTES = [
    (
        "dice.py, loader.py",
        LABELS,
        "LabelManager",
        ["has_regions", "foreground_regions", "foreground_labels", "ignore_label"],
    ),
    (
        "trainer.py, intensities.py",
        PLANS,
        "PlansManager",
        [
            "dataset_name",
            "plans_name",
            "image_reader_writer_class",
            "get_configuration",
            "get_label_manager",
            "foreground_intensity_properties_per_channel",
        ],
    ),
    (
        "trainer.py, slices.py",
        PLANS,
        "ConfigurationManager",
        ["patch_size", "batch_size", "data_identifier", "normalization_schemes", "preprocessor_class"],
    ),
    (
        "loader.py",
        "batchgenerators.dataloading.nondet_multi_threaded_augmenter",
        "NonDetMultiThreadedAugmenter",
        ["_finish"],
    ),
    ("checks.py", "nnunetv2.paths", "nnUNet_results", ["is_set"]),
]


def _named(module: str, name: str) -> Any:
    found = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize(("ours", "module", "name", "texts"), TEXTS, ids=lambda value: str(value)[:60])
def test_the_source_says_what_we_rely_on(ours: str, module: str, name: str, texts: list[str]) -> None:
    source = inspect.getsource(_named(module, name)).replace('"', "'")
    missing = [text for text in texts if text not in source]
    assert not missing, f"{module}.{name} no longer says {missing}; see {ours}"


@pytest.mark.parametrize(("ours", "module", "name", "parameters"), SIGNATURES, ids=lambda value: str(value)[:60])
def test_the_arguments_are_those_we_give(ours: str, module: str, name: str, parameters: list[str]) -> None:
    found = list(inspect.signature(_named(module, name)).parameters)
    assert found[: len(parameters)] == parameters, f"{module}.{name} takes {found}; see {ours}"


@pytest.mark.parametrize(("ours", "module", "name", "attributes"), ATTRIBUTES, ids=lambda value: str(value)[:60])
def test_the_attributes_are_there(ours: str, module: str, name: str, attributes: list[str]) -> None:
    missing = [attribute for attribute in attributes if not hasattr(_named(module, name), attribute)]
    assert not missing, f"{module}.{name} has no {missing}; see {ours}"


def test_the_loader_is_a_global_of_the_trainers_module() -> None:
    assert _named(TRAINER, "nnUNetDataLoader") is _named(LOADER, "nnUNetDataLoader"), "see loader.py, naming_blocks"


@pytest.mark.slow
@pytest.mark.parametrize("release", ["nnunetv2==2.8.0", "nnunetv2"], ids=["oldest", "newest"])
def test_the_contract_holds_for_other_releases(release: str, tmp_path: Path) -> None:
    """The oldest release we name and the newest there is, each in a folder that comes first."""
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), release], check=True
    )
    shown = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", str(Path(__file__)), "-m", "not slow"],
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    origin = subprocess.run(
        [sys.executable, "-c", "import nnunetv2; print(nnunetv2.__file__)"],
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert origin.stdout.startswith(str(site))
    assert shown.returncode == 0, shown.stdout[-3000:]
