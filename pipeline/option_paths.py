"""What can be found wrong with the paths among options: the part of `option_checks` about them."""

from pathlib import Path
from typing import Any

from vigil.extract.decode.videos import check_argument
from vigil.extract.errors import UserError
from vigil.pipeline import options
from vigil.pipeline.recipe import find_config, read_toml
from vigil.pipeline.run_folder import BEST
from vigil.pipeline.starter import checkpoint_folder

_MAY_USE_STARTER = (
    options.ScoreOptions,
    options.WatchOptions,
    options.ExplainOptions,
    options.CalibrateOptions,
    options.DoctorOptions,
)
_MAY_FETCH = (options.ExtractOptions, options.ScoreOptions)
"""Commands whose videos may be addresses."""


def check_paths(chosen: Any) -> None:
    """Refuse what a command is to read and is not there, and a file in the place of its output.

    Raises:
        UserError: names the path, and what belongs in its place.
    """
    videos = getattr(chosen, "videos", None)
    for argument in videos if isinstance(videos, tuple) else ():
        check_argument(argument, isinstance(chosen, _MAY_FETCH))
    if isinstance(chosen, options.ExplainOptions):
        check_argument(chosen.video)
    for name in ("annotations", "test_annotations"):
        for path in getattr(chosen, name, ()):
            if not path.exists():
                raise UserError(f"{path} does not exist: check --{name.replace('_', '-')}")
    out = getattr(chosen, "out", None)
    # vigil doctor looks at the folder itself, within a time limit.
    if out is not None and not isinstance(chosen, options.DoctorOptions) and out.is_file():
        raise UserError(f"--out {out} is a file: give a folder")
    for name in ("run", "other", "checkpoint"):
        if (path := getattr(chosen, name, None)) is not None:
            may_be_starter = isinstance(chosen, _MAY_USE_STARTER)
            _check_run(checkpoint_folder(path) if may_be_starter else path)
    for name in ("features", "test_features"):
        if isinstance(features := getattr(chosen, name, None), Path):
            _check_features(features)
    if isinstance(chosen, (options.BenchMethodsOptions, options.ReproduceOptions)):
        read_toml(find_config(chosen.config))


def _check_features(path: Path) -> None:
    """Refuse a place without feature files, with what it holds instead."""
    from vigil.extract.store import SUFFIX  # with h5py, which a command without features spares

    if not path.exists():
        raise UserError(f"{path} is not a folder of features: run vigil extract first")
    if path.is_file() or any(path.rglob(f"*{SUFFIX}")):
        return
    remedy = "run vigil extract first"
    if any(path.rglob("*.npy")) or any(path.rglob("*.npz")):
        remedy = "run vigil features import first, since its .npy files are those of other programs"
    elif (path / BEST).is_dir():
        remedy = "it is a run; put the folder that vigil extract wrote in this place"
    raise UserError(f"{path} holds no feature files: {remedy}")


def _check_run(path: Path) -> None:
    """Refuse a run or checkpoint that is not there, unless a killed save left it beside."""
    if not path.exists() and not path.with_name(f".{path.name}.previous").exists():
        raise UserError(f"{path} does not exist: give the folder that vigil train wrote")
