"""Recipes: the shipped files, and the errors for invalid ones."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from vigil.extract.errors import UserError
from vigil.model.config import LossConfig, ModelConfig
from vigil.model.methods import METHODS, find_method
from vigil.pipeline.recipe import Recipe, TrainingConfig, load_recipe
from vigil.pipeline.tables.method_table import load_table

ROOT = Path(__file__).parent.parent


def test_ucf_crime_is_the_papers_recipe() -> None:
    recipe = load_recipe(ROOT / "configs" / "ucf_crime.toml")
    assert recipe.model == ModelConfig()
    assert recipe.loss == LossConfig()
    training = recipe.training
    assert (training.learning_rate, training.num_anomalous, training.num_normal) == (1e-4, 30, 30)
    assert (recipe.model.lstm_size, recipe.model.detection_size) == (1024, 96)
    assert (recipe.loss.detection_weight, recipe.loss.attention_weight) == (0.9, 1e-3)


def test_small_pools_and_standardizes() -> None:
    model = load_recipe(ROOT / "configs" / "small.toml").model
    assert (model.lstm_size, model.time_pool, model.standardize) == (128, "mean", True)


def test_settings_left_out_have_their_defaults(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text("[training]\nepochs = 3\ngradient_clip = 1\n")
    recipe = load_recipe(path)
    assert recipe == Recipe(training=TrainingConfig(epochs=3, gradient_clip=1.0))
    path.write_text("")
    assert load_recipe(path) == Recipe()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "epochs = 3",
            r"'epochs' is not a section of a recipe: use model, loss, training, ",
        ),
        ("[modle]", "'modle' is not a section"),
        ("[model]\nlstm = 3", r"section \[model\]: lstm is unknown: the settings are time_pool, "),
        (
            "[model]\ndropout = 2",
            r"section \[model\]: dropout = 2 is not allowed: it must be at le",
        ),
        (
            "[model]\ntime_pool = 'max'",
            "time_pool = 'max' is not allowed: .* one of 'none', 'mean'",
        ),
        ("[model]\nlstm_size = 1.5", "lstm_size = 1.5 is not allowed: it must be a whole number"),
        ("[loss]\nmargin = 'big'", r"section \[loss\]: margin = 'big' .* must be a number"),
        ("[loss]\nmargin = true", "margin = True is not allowed: it must be a number"),
        ("[training]\nepochs = true", "epochs = True is not allowed: it must be a whole number"),
        ("[training]\namp = 1", "amp = 1 is not allowed: it must be true or false"),
        ("[training]\ngradient_clip = 'a'", "gradient_clip = 'a' is not allowed: .* a number"),
        ("[training]\nearly_stopping_epochs = 1.5", "1.5 is not allowed: .* a whole number"),
        ("[training]\nselection = 'test'", "must be one of 'auc', 'maa', 'mean'"),
        ("[training]\nlearning_rate = nan", "learning_rate = nan is not allowed"),
        ("[training]\nepochs = 0", "epochs = 0 is not allowed: it must be at least 1"),
        ("[training]\nvalidation_folds = 1", "validation_folds = 1 .* must be 0 or at least 2"),
        ("[training", "is not a TOML file"),
    ],
)
def test_errors_in_a_file_are_located_and_explained(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        load_recipe(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.toml cannot be read \(No such file"):
        load_recipe(tmp_path / "none.toml")


@pytest.mark.parametrize("name", ["joint_plus", "configs/joint_plus.toml"])
def test_shipped_recipes_have_names_in_every_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_recipe(Path(name)) == load_recipe(ROOT / "configs" / "joint_plus.toml")
    assert load_table(Path("configs/table1.toml")).dataset == "ucf_crime"
    own = tmp_path / name
    own.parent.mkdir(exist_ok=True)
    own.write_text('method = "svm"')
    assert load_recipe(Path(name)).method == "svm"


@pytest.mark.parametrize("name", ["joint_pls", "joint_plus.toml", "other/joint_plus.toml"])
def test_other_names_are_paths(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"cannot be read .* by its name: .*joint_plus, "):
        load_recipe(Path(name))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"validation_fraction": 0.0}, "validation_fraction = 0.0 .* above 0 and below 1"),
        ({"gradient_clip": 0.0}, "gradient_clip = 0.0 is not allowed"),
        ({"early_stopping_epochs": 0}, "early_stopping_epochs = 0 is not allowed"),
        ({"save_epochs": 0}, "save_epochs = 0 is not allowed"),
    ],
)
def test_training_settings_are_checked(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**settings)  # type: ignore[arg-type]


def test_the_command_line_can_be_built_without_torch() -> None:
    check = "import sys, pipeline.recipe; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=True)


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_has_a_help_text(name: str) -> None:
    method = find_method(name)
    for section in (method.model, method.loss, TrainingConfig):
        modules = {kind.__module__ for kind in section.__mro__[:-1]}
        source = "".join(Path(sys.modules[one].__file__ or "").read_text() for one in modules)
        for setting in fields(section):
            _, found, after = source.partition(f"\n    {setting.name}: ")
            assert found
            assert after.split("\n")[1].startswith('    """'), setting.name
