"""The checkpoint: a folder of tensors (`model.safetensors`) and facts about them (`config.json`).

It contains no pickle, so reading it never runs code. A checkpoint from which training can resume
also holds the optimizer (`optimizer.safetensors`) and the mixed-precision state (`resume.json`).
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import dacite
import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from vigil.extract.errors import UserError
from vigil.extract.files import replace_file, sync
from vigil.extract.spec import FeatureSpec
from vigil.model.detector import Detector
from vigil.model.settings import InputShape, require
from vigil.pipeline.calibration import Calibration
from vigil.pipeline.recipe import Recipe, recipe_of
from vigil.pipeline.text_files import read_json, write_json

FORMAT, FORMAT_VERSION = "vigil-checkpoint", 3
CONFIG_NAME = "config.json"
MODEL_NAME = "model.safetensors"
OPTIMIZER_NAME = "optimizer.safetensors"
RESUME_NAME = "resume.json"
MAX_FACTOR = 2
"""Videos whose lengths differ by more make segments that a model does not know."""


class CheckpointError(UserError):
    """A checkpoint is missing, damaged or unsuitable."""


@dataclass(frozen=True)
class TrainingLengths:
    """How long the training videos were, in frames that their clips show."""

    shortest: int
    median: int
    longest: int
    fps: float
    """Median of the rates of these frames."""

    @classmethod
    def of(
        cls, num_frames: npt.NDArray[np.int64], fps: npt.NDArray[np.float64]
    ) -> "TrainingLengths | None":
        """The lengths of videos with these numbers of frames (N,); None if one is unknown (0)."""
        if not num_frames.all():
            return None
        lengths = int(num_frames.min()), int(np.median(num_frames)), int(num_frames.max())
        return cls(*lengths, float(np.median(fps)))

    def unlike(self, num_frames: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which of other videos (N,) are more than `MAX_FACTOR` times longer or shorter."""
        is_longer = num_frames > MAX_FACTOR * self.longest
        return is_longer | (num_frames * MAX_FACTOR < self.shortest)


@dataclass(frozen=True)
class CheckpointConfig:
    """Everything about a checkpoint except its tensors: the content of `config.json`."""

    recipe: Recipe
    shape: InputShape
    class_names: tuple[str, ...]
    """In the order of their indices, normal first."""
    spec: FeatureSpec
    """The spec of the features it was trained on."""
    weights_name: str
    """The backbone's weights; their digest is in the spec."""
    weights_trained: bool
    """False for random backbone weights: the scores are then meaningless."""
    precision: str
    """The precision in which the backbone computed the features."""
    views: tuple[str, ...]
    """The views it was trained on."""
    threshold: float
    """A segment at or above this score belongs to an event."""
    threshold_rule: str
    """How the threshold was chosen."""
    metrics: dict[str, float]
    """Measured on the held-out videos, or by cross-validation."""
    seed: int
    epoch: int
    versions: dict[str, str]
    created_at: str
    training_lengths: TrainingLengths | None = None
    """None in checkpoints of earlier versions."""
    calibration: Calibration | None = None
    """Thresholds by camera, from vigil calibrate; they take the place of `threshold` in scoring."""

    def __post_init__(self) -> None:
        """Reject contradictory or invalid values.

        Raises:
            ValueError: names the value.
        """
        num_names, num_classes = len(self.class_names), self.shape.num_classes
        require(num_names == num_classes, "number of class names", num_names, str(num_classes))
        require(0 <= self.threshold <= 1, "threshold", self.threshold, "from 0 to 1")

    def threshold_of(self, video: str) -> tuple[float, str]:
        """The threshold for a video, calibrated or else chosen in training, and its rule."""
        if self.calibration is None:
            return self.threshold, self.threshold_rule
        return self.calibration.threshold_of(video)


class Checkpoint(NamedTuple):
    """A trained model and everything about it."""

    config: CheckpointConfig
    model: Detector
    """On the CPU, ready to score."""
    folder: Path
    model_digest: str
    """sha256 of `model.safetensors`."""

    def with_static(self, static: str | None) -> "Checkpoint":
        """The same model for features that treat static clips in this way; None: as in training."""
        spec = replace(self.config.spec, static=static or self.config.spec.static)
        return self._replace(config=replace(self.config, spec=spec))


class ResumeState(NamedTuple):
    """The state, besides the weights, from which training resumes as if it had never stopped.

    Random states are not needed: each epoch seeds its own generator from the seed and its number.
    """

    optimizer: dict[str, Tensor]
    scaler: dict[str, Any]


def save_checkpoint(
    folder: Path,
    config: CheckpointConfig,
    model: Detector | Path,
    resume: ResumeState | None = None,
) -> None:
    """Write a checkpoint atomically, replacing the one in the folder, if any.

    Args:
        folder: where to.
        config: facts about the model.
        model: the model, or the `model.safetensors` of another checkpoint, which is copied.
        resume: what training needs to go on.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    settle_checkpoint(folder)
    new, previous = _beside(folder, "new"), _beside(folder, "previous")
    content = model.read_bytes() if isinstance(model, Path) else _packed(model.state_dict())
    _write(new / MODEL_NAME, content)
    if resume is not None:
        _write(new / OPTIMIZER_NAME, _packed(resume.optimizer))
        write_json(new / RESUME_NAME, resume.scaler)
    facts = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(config)}
    if config.calibration is None:
        del facts["calibration"]  # earlier versions read a checkpoint without one
    facts["spec_digest"] = config.spec.digest
    facts["file_digests"] = {path.name: _file_digest(path) for path in sorted(new.iterdir())}
    facts["content_digest"] = config_digest(facts)
    write_json(new / CONFIG_NAME, facts)
    # Two folders cannot be swapped atomically on every system. Between the two renames,
    # `existing_checkpoint` finds the last complete checkpoint in `previous`.
    if folder.exists():
        folder.rename(previous)
    new.rename(folder)
    sync(new.parent)
    shutil.rmtree(previous, ignore_errors=True)


def settle_checkpoint(folder: Path) -> None:
    """Restore or remove what a killed save left beside a checkpoint.

    Raises:
        OSError: the folder cannot be written.
    """
    new, previous = _beside(folder, "new"), _beside(folder, "previous")
    if previous.exists() and not folder.exists():
        previous.rename(folder)
        sync(previous.parent)
    for leftover in (new, previous):
        if leftover.exists():
            shutil.rmtree(leftover)


def remove_checkpoint(folder: Path) -> None:
    """Remove a checkpoint; if this is killed, the checkpoint is either complete or ignored.

    Raises:
        OSError: the folder cannot be written.
    """
    settle_checkpoint(folder)
    if folder.exists():
        (folder / CONFIG_NAME).unlink(missing_ok=True)
        sync(folder)
        shutil.rmtree(folder)


def load_checkpoint(path: Path, which: str = "best") -> Checkpoint:
    """Load the model in a run folder (its checkpoint ``which``) or in a checkpoint folder.

    Raises:
        CheckpointError: it is missing, damaged or of another version; names the file.
    """
    folder = find_checkpoint(path, which)
    if folder is None:
        raise CheckpointError(
            f"{path} holds no checkpoint (no {which}/{CONFIG_NAME}): "
            "give the folder that vigil train wrote, or one of its checkpoints"
        )
    config, digests = _read_config(folder)
    _require_digest(folder / MODEL_NAME, digests)
    model = _load_model(folder / MODEL_NAME, config).eval()
    return Checkpoint(config, model, folder, digests[MODEL_NAME])


def find_checkpoint(path: Path, which: str) -> Path | None:
    """The checkpoint folder for a path to a run or to a checkpoint; None if there is none."""
    return existing_checkpoint(path) or existing_checkpoint(path / which)


def existing_checkpoint(folder: Path) -> Path | None:
    """Where the checkpoint of a folder is, even if a save was killed while replacing it."""
    candidates = (folder, _beside(folder, "previous"))
    return next((path for path in candidates if (path / CONFIG_NAME).is_file()), None)


def load_config(folder: Path) -> CheckpointConfig:
    """Load the config of a checkpoint folder.

    Raises:
        CheckpointError: the file is damaged or of another version.
    """
    return _read_config(folder)[0]


def load_resume_state(folder: Path) -> ResumeState:
    """Load the resume state that `save_checkpoint` wrote.

    Raises:
        CheckpointError: the files are missing or damaged.
    """
    _, digests = _read_config(folder)
    for name in (OPTIMIZER_NAME, RESUME_NAME):
        _require_digest(folder / name, digests)
    return ResumeState(_load_tensors(folder / OPTIMIZER_NAME), _load_json(folder / RESUME_NAME))


def _require_digest(path: Path, digests: Mapping[str, str]) -> None:
    if not path.is_file() or _file_digest(path) != digests.get(path.name):
        raise _damaged(path, f"it is not the file that {CONFIG_NAME} was written with")


def _read_config(folder: Path) -> tuple[CheckpointConfig, dict[str, str]]:
    """The content of `config.json`, and the digests of the files beside it."""
    path = folder / CONFIG_NAME
    content = _load_json(path)
    digest = config_digest(content)
    if content.pop("format", None) != FORMAT:
        raise CheckpointError(f"{path} is not the config of a checkpoint: give another folder")
    if (version := content.pop("format_version", None)) != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {version}, this program reads {FORMAT_VERSION}: "
            "use the version of vigil that wrote it, or train again"
        )
    if content.pop("content_digest", None) != digest:
        raise _damaged(path, "its content does not match its digest")
    spec_digest, file_digests = content.pop("spec_digest", ""), content.pop("file_digests", None)
    if not isinstance(file_digests, dict):
        raise _damaged(path, "it lists no digests of the files beside it")
    try:
        hooks: dict[type[Any], Callable[[Any], Any]] = {Recipe: partial(recipe_of, where="recipe")}
        reading = dacite.Config(strict=True, cast=[tuple], type_hooks=hooks)
        config = dacite.from_dict(CheckpointConfig, content, reading)
    except (dacite.DaciteError, TypeError, ValueError, UserError) as error:
        raise _damaged(path, str(error)) from error
    if spec_digest != config.spec.digest:
        raise _damaged(path, "spec_digest is not that of the feature settings")
    return config, file_digests


def _load_model(path: Path, config: CheckpointConfig) -> Detector:
    tensors = {name: _as_float32(tensor) for name, tensor in _load_tensors(path).items()}
    try:
        with torch.device("meta"):  # no memory: the tensors of the file become the weights
            model = config.recipe.build(config.shape)
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:  # sizes beyond 2**63
        raise _damaged(path.with_name(CONFIG_NAME), "no model can have its sizes") from error
    expected = model.state_dict()
    differences = [
        *(f"{name} is missing" for name in expected.keys() - tensors.keys()),
        *(f"{name} is unknown" for name in tensors.keys() - expected.keys()),
        *(
            f"{name} is {_kind(tensors[name])}, not {_kind(expected[name])}"
            for name in expected.keys() & tensors.keys()
            if _kind(tensors[name]) != _kind(expected[name])
        ),
    ]
    if differences:
        raise _damaged(path, f"it does not fit {CONFIG_NAME}: {'; '.join(sorted(differences)[:3])}")
    model.load_state_dict(tensors, assign=True)
    return model


def _as_float32(tensor: Tensor) -> Tensor:
    """A tensor as models have it; a small checkpoint is stored in 16 bits."""
    return tensor.float() if tensor.dtype == torch.float16 else tensor


def _kind(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {tensor.dtype}"


def _beside(folder: Path, state: str) -> Path:
    folder = folder.resolve()
    return folder.parent / f".{folder.name}.{state}"


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def config_digest(content: Mapping[str, Any]) -> str:
    """sha256 over everything in `config.json` except this digest."""
    others = {name: value for name, value in content.items() if name != "content_digest"}
    return hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()


def _damaged(path: Path, reason: str) -> CheckpointError:
    reason = " ".join(reason.split())
    return CheckpointError(f"{path} is damaged ({reason}): use another checkpoint or train again")


def _packed(tensors: Mapping[str, Tensor]) -> bytes:
    return save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})


def _write(path: Path, content: bytes) -> None:
    with replace_file(path) as partial:
        partial.write_bytes(content)  # unlike safetensors' own save_file, raises OSError


def _load_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise _damaged(path, str(error)) from error


def _load_json(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
