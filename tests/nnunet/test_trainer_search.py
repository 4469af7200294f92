import os
import pickle
from pathlib import Path

import pytest
from nnunetv2.run import run_training
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunet_ima.errors import UserError
from nnunet_ima.nnunet.dataset_names import accept_letter_d, dataset_name, parse_identifier
from nnunet_ima.nnunet.trainer_search import DISCOVERY, VARIABLE, extended_search_path, make_trainers_findable
from nnunet_ima.segmentation import trainer


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """nnU-Net's three folders, with one preprocessed data set (its plans are missing)."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    (tmp_path / "nnUNet_preprocessed" / "Dataset004_Toy").mkdir()
    return tmp_path


def test_our_folder_is_the_search_path_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert extended_search_path() == str(DISCOVERY)
    monkeypatch.setenv(VARIABLE, "")
    assert extended_search_path() == str(DISCOVERY)


def test_our_folder_is_added_once_behind_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, os.pathsep.join(["/mine", "/theirs"]))
    for _ in range(2):
        make_trainers_findable()
        assert os.environ[VARIABLE].split(os.pathsep) == ["/mine", "/theirs", str(DISCOVERY)]


def test_our_folder_keeps_the_place_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    value = os.pathsep.join([str(DISCOVERY), "/mine"])
    monkeypatch.setenv(VARIABLE, value)
    assert extended_search_path() == value


@pytest.mark.parametrize("name", ["nnUNetTrainerIMA", "nnUNetTrainerPlain"])
def test_nnunet_finds_the_trainers_and_they_pickle_by_reference(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    make_trainers_findable()
    found = recursive_find_trainer_class_by_name(name)
    assert found is getattr(trainer, name)
    assert found.__module__ in ("nnunet_ima.segmentation.trainer", "nnunet_ima.segmentation.plain_trainer")
    assert pickle.loads(pickle.dumps(found)) is found


def test_nnunet_does_not_find_the_trainers_without_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(RuntimeError, match="Could not find requested nnunet trainer nnUNetTrainerIMA"):
        recursive_find_trainer_class_by_name("nnUNetTrainerIMA")


@pytest.mark.parametrize(("text", "number"), [("D4", 4), ("d4", 4), ("4", 4), ("D004", 4), ("012", 12), (4, 4)])
def test_identifiers_with_and_without_letter_are_numbers(text: object, number: int) -> None:
    assert parse_identifier(text) == number


@pytest.mark.parametrize("text", ["D", "D4x", "Dataset004_Toy", "DD4", "D-4", "", "four"])
def test_anything_else_is_no_number(text: str) -> None:
    with pytest.raises(ValueError):
        parse_identifier(text)


@pytest.mark.parametrize("name", ["D4", "d4", "4", "Dataset004_Toy"])
def test_nnunets_training_command_reads_the_letter(name: str, folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_training, "int", int, raising=False)
    if name.lower().startswith("d4"):
        with pytest.raises(ValueError, match="must either be an integer or a valid dataset name"):
            run_training.get_trainer_from_args(name, "2d", 0)
    accept_letter_d()
    # It gets as far as the plans of the data set, which are not there.
    with pytest.raises(FileNotFoundError, match=r"Dataset004_Toy.nnUNetPlans\.json"):
        run_training.get_trainer_from_args(name, "2d", 0)


def test_nnunets_training_command_still_refuses_what_is_no_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_training, "int", int, raising=False)
    accept_letter_d()
    with pytest.raises(ValueError, match="must either be an integer or a valid dataset name"):
        run_training.get_trainer_from_args("Dx", "2d", 0)


@pytest.mark.parametrize("identifier", ["D4", "d4", "4", "004", "Dataset004_Toy"])
def test_a_data_set_is_known_by_letter_number_and_name(identifier: str, folders: Path) -> None:
    assert dataset_name(identifier) == "Dataset004_Toy"


@pytest.mark.parametrize("identifier", ["Heart", "D", ""])
def test_what_is_no_data_set_is_refused_with_examples(identifier: str, folders: Path) -> None:
    with pytest.raises(UserError, match=f"-d must be like 4, D4 or Dataset004_Hippocampus, got '{identifier}'"):
        dataset_name(identifier)


@pytest.mark.parametrize("identifier", ["7", "D7", "Dataset007_Missing"])
def test_a_data_set_that_is_not_there_is_refused(identifier: str, folders: Path) -> None:
    with pytest.raises(UserError, match=f"-d {identifier}: there is no data set"):
        dataset_name(identifier)


def test_a_number_that_two_data_sets_share_is_refused(folders: Path) -> None:
    (folders / "nnUNet_raw" / "Dataset004_Other").mkdir()
    with pytest.raises(UserError, match=r"-d D4: several data sets have this number.*full name"):
        dataset_name("D4")
