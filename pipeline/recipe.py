"""A recipe: every setting of a training, from a TOML file or from command-line flags.

The command line is built from this module, so it must not import torch.
"""

import json
import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin

import dacite

from vigil.data.pooling import PoolingConfig
from vigil.extract.errors import UserError
from vigil.model.config import LossConfig, ModelConfig
from vigil.model.methods import DEFAULT_METHOD, find_method
from vigil.model.settings import InputShape, Settings, require, require_literal

if TYPE_CHECKING:
    from vigil.model.detector import Detector

Selection = Literal["auc", "maa", "mean", "last"]
Section = TypeVar("Section")
CONFIGS = Path(__file__).parents[1] / "configs"
"""Vigil's own recipes and tables, in the package."""
SECTIONS = ("model", "loss", "training", "features")


@dataclass(frozen=True)
class TrainingConfig:
    """How a model is trained and how its best epoch is chosen."""

    epochs: int = 100
    """Number of epochs; each uses every training video at least once."""
    learning_rate: float = 1e-4
    """Learning rate of Adam."""
    weight_decay: float = 0.0
    """L2 penalty added to the gradient of every weight."""
    num_anomalous: int = 30
    """Anomalous videos per batch."""
    num_normal: int = 30
    """Normal videos per batch."""
    validation_fraction: float = 0.2
    """Share of each class's videos held out to choose the epoch and the threshold."""
    validation_folds: int = 0
    """0: hold videos out. 2 or more: choose the epoch and the threshold by cross-validation with
    this many folds, then train on all videos. Worth the time if there are few videos."""
    selection: Selection = "mean"
    """Measure on the held-out videos that chooses the best epoch: auc, maa or the mean of the two;
    last: use the last epoch, and the held-out videos only to choose the threshold."""
    early_stopping_epochs: int | None = None
    """Stop after this many epochs without improvement."""
    gradient_clip: float | None = None
    """Clip the norm of the gradient over all weights to this value."""
    amp: bool = False
    """Use automatic mixed precision. CUDA only."""
    compile: bool = False
    """Compile the model with torch.compile, which takes a while and needs a C++ compiler. Of little
    use on a CPU; see docs/performance.md."""
    save_epochs: int = 1
    """Write the checkpoints every this many epochs and at the end; --resume continues from them."""

    def __post_init__(self) -> None:
        """Reject invalid values.

        Raises:
            ValueError: names the setting, its value and what is allowed.
        """
        for name in ("epochs", "num_anomalous", "num_normal", "save_epochs"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        rate, clip, patience = self.learning_rate, self.gradient_clip, self.early_stopping_epochs
        require(0 < rate < math.inf, "learning_rate", rate, "a number above 0")
        decay = self.weight_decay
        require(0 <= decay < math.inf, "weight_decay", decay, "a number from 0 up")
        require(clip is None or 0 < clip < math.inf, "gradient_clip", clip, "a number above 0")
        require(patience is None or patience >= 1, "early_stopping_epochs", patience, "at least 1")
        require(
            patience is None or self.selection != "last",
            "early_stopping_epochs",
            patience,
            'left out with selection = "last"',
        )
        fraction = self.validation_fraction
        require(0 < fraction < 1, "validation_fraction", fraction, "above 0 and below 1")
        folds = self.validation_folds
        require(folds == 0 or folds >= 2, "validation_folds", folds, "0 or at least 2")
        require_literal("selection", self.selection, Selection)


@dataclass(frozen=True)
class Recipe:
    """Every setting of a training; in a TOML file, each section is a table of the same name.

    The model and loss settings depend on the method.
    """

    model: Settings = field(default_factory=ModelConfig)
    loss: Settings = field(default_factory=LossConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    method: str = DEFAULT_METHOD
    """Method to train, one of docs/methods.md; it determines the model and loss settings."""
    features: PoolingConfig = field(default_factory=PoolingConfig)

    def build(self, shape: InputShape) -> "Detector":
        """Build a model with these settings and fresh weights from torch's generator."""
        return find_method(self.method).detector(self.model, self.loss, shape)

    @property
    def classifies(self) -> bool:
        """Whether the method names classes instead of only separating anomalous from normal."""
        return find_method(self.method).detector.classifies


def starting_recipe(config: Path | None, method: str | None) -> Recipe:
    """The recipe whose settings are the defaults of a training: of a file, or of a method.

    Raises:
        UserError: both are given, or it cannot be used.
    """
    if config is not None and method is not None:
        raise UserError("--config already determines the method: leave out --method")
    if config is not None:
        return load_recipe(config)
    return Recipe() if method is None else recipe_of({"method": method}, "--method")


def load_recipe(path: Path) -> Recipe:
    """Load a recipe from a TOML file; settings it omits have their defaults.

    Raises:
        UserError: names the file, the section and the key, and what is allowed there.
    """
    return recipe_of(read_toml(find_config(path)), str(path))


def find_config(path: Path) -> Path:
    """A TOML file: the one at a path, or one of vigil's by its name, from any folder.

    ``joint_plus`` and ``configs/joint_plus.toml`` name one of vigil's, unless there is such a file.
    """
    is_name = path.suffix == "" and path.name == str(path)
    if path.is_file() or not (is_name or path == Path("configs", f"{path.stem}.toml")):
        return path
    shipped = CONFIGS / f"{path.stem}.toml"
    return shipped if shipped.is_file() else path


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        UserError: it cannot be read, or is not TOML.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        json.dumps(content, default=str)  # rejects numbers too long to print
    except OSError as error:
        names = ", ".join(sorted(file.stem for file in CONFIGS.glob("*.toml")))
        raise UserError(
            f"{path} cannot be read ({error.strerror}): give a TOML file, or one of vigil's by its "
            f"name: {names}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a TOML file: {error}") from error
    return content


def recipe_of(content: Mapping[str, Any], where: str) -> Recipe:
    """Build the recipe with these settings; those omitted have their defaults.

    Args:
        content: section -> name -> value, and the method.
        where: the source of the content, for messages.

    Raises:
        UserError: names the section and the key, and what is allowed there.
    """
    if not isinstance(content, Mapping):
        raise UserError(f"{where}: {content!r} is not a recipe: it must have sections")
    sections = {name: value for name, value in content.items() if name != "method"}
    for name, section in sections.items():
        if name not in SECTIONS or not isinstance(section, dict):
            raise UserError(
                f"{where}: {name!r} is not a section of a recipe: use {', '.join(SECTIONS)} as "
                "[tables], and method above them"
            )
    name = content.get("method", DEFAULT_METHOD)
    if not isinstance(name, str):
        raise UserError(f"{where}: method = {name!r} is not allowed: it must be a name in quotes")
    try:
        method = find_method(name)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error
    return Recipe(
        model=_load_section(where, "model", method.model, sections),
        loss=_load_section(where, "loss", method.loss, sections),
        training=_load_section(where, "training", TrainingConfig, sections),
        features=_load_section(where, "features", PoolingConfig, sections),
        method=name,
    )


def _load_section(
    where: str, section: str, settings: type[Section], content: Mapping[str, Any]
) -> Section:
    where = f"{where}, section [{section}]"
    hooks: dict[type[Any], Callable[[Any], Any]] = {
        kind: partial(_refuse_bool, kind) for kind in (int, float)
    }
    try:
        values = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in content.get(section, {}).items()
        }
        return dacite.from_dict(settings, values, dacite.Config(strict=True, type_hooks=hooks))
    except dacite.UnexpectedDataError as error:
        keys = ", ".join(sorted(error.keys))
        allowed = ", ".join(setting.name for setting in fields(settings)) or "none"  # type: ignore[arg-type]
        raise UserError(f"{where}: {keys} is unknown: the settings are {allowed}") from error
    except dacite.WrongTypeError as error:
        allowed = _describe(error.field_type)
        raise UserError(
            f"{where}: {error.field_path} = {error.value!r} is not allowed: it must be {allowed}"
        ) from error
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def _refuse_bool(kind: type, value: object) -> object:
    """Return the value unless it is a bool, which Python would accept as a number."""
    if isinstance(value, bool):
        raise dacite.WrongTypeError(kind, value)
    return value


def _describe(kind: Any) -> str:
    """The values that a setting of this type allows, in words."""
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(repr, get_args(kind)))}"
    if get_origin(kind) is tuple:
        return "a list of whole numbers"
    words = {int: "a whole number", float: "a number", bool: "true or false"}
    return words[(get_args(kind) or (kind,))[0]]  # "int | None" -> int
