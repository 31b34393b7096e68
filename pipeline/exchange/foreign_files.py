"""Read feature files of other programs as rows, one for each clip or segment of a video.

The facts about the formats come from these programs; docs/exchange.md cites the sources. Nothing is
unpickled. Legend: T rows, V crops, P time positions, C channels, D = P x C values.
"""

import lzma
import tokenize
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from vigil.extract.errors import UserError
from vigil.extract.sealed import DAMAGE, FORMAT
from vigil.extract.views import VIEWS
from vigil.pipeline.options import CropOrder

SNIPPET_FRAMES = 16
"""Frames per row in the features of RTFM, UR-DMU, DeepMIL, XD-Violence and Sultani."""
JOINT_FRAMES = 64
"""Frames per row in the features of the joint model (Majhi et al., FG 2021, IV-A)."""

NUM_CROPS = (10, 5, 1)
NUMPY_NAMES = ("features", "feat")
MAX_BYTES = 1 << 32
"""Limit for one video's features; ten crops of an hour at 30 frames a second take 0.55 GB."""
HDF5_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}

UNREADABLE = (
    *(*DAMAGE, EOFError, MemoryError, SyntaxError, tokenize.TokenError),
    *(lzma.LZMAError, zipfile.BadZipFile, zlib.error),
)

_CORNERS = ("top_left", "top_right", "bottom_left", "bottom_right")
# Programs that mirror a frame before they crop it: its left is then the right of the original.
_CORNERS_SWAPPED = ("top_right", "top_left", "bottom_right", "bottom_left")

CROP_ORDERS: dict[CropOrder, tuple[str, ...]] = {
    "rtfm": (*_CORNERS, "center", *(f"{name}_mirrored" for name in (*_CORNERS_SWAPPED, "center"))),
    "oversample": (
        *(*_CORNERS[:2], "center", *_CORNERS[2:]),
        *(f"{name}_mirrored" for name in (*_CORNERS_SWAPPED[:2], "center", *_CORNERS_SWAPPED[2:])),
    ),
    "deepmil": tuple(
        {0: "center", 5: "center_mirrored"}.get(index, f"crop_{index}") for index in range(10)
    ),
    "vigil": tuple(VIEWS),
    "unnamed": tuple(f"crop_{index}" for index in range(10)),
}
"""Name of an order of crops -> our views in that order; crop_N if the corner is not documented."""


class ExchangeError(UserError):
    """The features of one video cannot be imported or exported."""


@dataclass(frozen=True, eq=False)
class ForeignRows:
    """The features that a file holds of one video."""

    features: npt.NDArray[np.floating]
    """(T, V, D), D time-major."""
    frames_per_row: int | None = None
    """Set if the format fixes it: row i covers the frames [i * frames_per_row, ...)."""
    are_segments: bool = False
    """Whether the rows already are equal stretches of the video, whatever its length."""
    time_positions: int = 1
    num_rounded: int = 0
    """Number of files whose values were changed to fit into float32."""


def crop_names(order: CropOrder | None, num_crops: int, where: object) -> tuple[str, ...]:
    """The views of a file's crops, in the file's order; a single crop is the center.

    Args:
        order: the name of the order; None if the user did not specify one.
        num_crops: 1, 5 or 10.
        where: the file, for the message.

    Raises:
        UserError: there are several crops, but no order.
    """
    if num_crops == 1:
        return ("center",)
    if order is None:
        raise UserError(
            f"{where} holds {num_crops} crops without names: specify their order with --crops: "
            f"{', '.join(CROP_ORDERS)}"
        )
    return CROP_ORDERS[order][:num_crops]


def exported_crops(order: CropOrder, views: tuple[str, ...]) -> tuple[str, ...]:
    """The views to export: ten, five or one, as many as are stored, in the order of `crop_names`.

    Raises:
        ExchangeError: not even the center is stored.
    """
    for number in NUM_CROPS:
        names = crop_names(order, number, "")
        if set(names) <= set(views):
            return names
    raise ExchangeError(
        f"features hold the views {', '.join(views)}: an export needs the center, or all of "
        f"{', '.join(CROP_ORDERS[order][:5])} (another --crops needs others)"
    )


def read_rows(path: Path, crops_first: bool = False) -> ForeignRows:
    """Read the rows of a file; its extension determines the format: .npy, .npz, .txt or .h5.

    Args:
        path: the file.
        crops_first: whether a .npy with three axes is (V, T, D) instead of (T, V, D).

    Raises:
        ExchangeError: it is damaged, pickled, too large, misshapen or not finite; states which.
    """
    readers = {".npy": _read_npy, ".npz": _read_npz, ".txt": _read_text, ".h5": _read_hdf5}
    try:
        read = readers.get(path.suffix.lower())
        if read is None or path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it is none of {', '.join(readers)}, or larger than 4 GiB")
        rows = _narrowed(read(path, crops_first))
    except UNREADABLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ExchangeError(
            f"{path} cannot be used ({reason}): get it again, or see docs/exchange.md for formats"
        ) from error
    if not np.isfinite(rows.features).all():
        row, crop, value = np.argwhere(~np.isfinite(rows.features))[0]
        raise ExchangeError(
            f"{path}: row {row}, crop {crop}, value {value} is not finite: compute it again"
        )
    return rows


def _read_npy(path: Path, crops_first: bool) -> ForeignRows:
    """RTFM's (T, V, D), with 16 frames per row, or (T, D), whose frames per row are not fixed."""
    array = _floats(np.lib.format.open_memmap(path, mode="r"))
    if array.ndim == 2:
        return ForeignRows(_with_rows(array[:, None]))
    if array.ndim != 3:
        raise ValueError(f"it has the shape {array.shape}, not (rows, crops, values)")
    if crops_first:
        array = array.swapaxes(0, 1)
    if array.shape[1] not in NUM_CROPS:
        raise ValueError(
            f"it has the shape {array.shape}, but its second axis must be the crops, one of "
            f"{', '.join(map(str, NUM_CROPS))}; use --crops-first if the crops are its first axis"
        )
    return ForeignRows(_with_rows(array), SNIPPET_FRAMES)


def _read_npz(path: Path, _: bool) -> ForeignRows:
    """Sultani's segments as a .npz: the array `features` or `feat`, or the only one."""
    with zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        chosen = names if len(names) == 1 else [name for name in NUMPY_NAMES if name in names]
        if not chosen:
            raise ValueError(f"it holds {', '.join(names) or 'nothing'}, but no array features")
        member = archive.getinfo(chosen[0] + ".npy")
        if member.file_size > MAX_BYTES:
            raise ValueError("it decompresses to more than 4 GiB")
        with archive.open(member) as file:
            array = np.lib.format.read_array(file)
    return _segments(array)


def _read_text(path: Path, _: bool) -> ForeignRows:
    """Sultani's segments: one per line, as numbers separated by blanks."""
    lines = path.read_text(encoding="ascii").split("\n")
    if not any(map(str.strip, lines)):
        raise ValueError("it is empty")
    return _segments(np.loadtxt(lines, dtype=np.float32, comments=None, ndmin=2))


def _read_hdf5(path: Path, _: bool) -> ForeignRows:
    """The joint model's (1, T, P, 1, 1, C), named features, with 64 frames per row."""
    with path.open("rb") as file:
        if file.read(len(FORMAT)) == FORMAT.encode():
            raise ValueError("it already is a feature file of vigil")
        with h5py.File(file, "r") as content:
            if not isinstance(content.get("features", getlink=True), h5py.HardLink):
                raise ValueError("it holds no array named features")
            array = _hdf5_array(content["features"])
    if array.ndim != 6 or array.shape[0] != 1 or array.shape[3:5] != (1, 1):
        raise ValueError(
            f"its dataset features has the shape {array.shape}, not (1, T, P, 1, 1, C)"
        )
    num_rows, time_positions = array.shape[1:3]
    rows = _with_rows(array.reshape(num_rows, 1, time_positions * array.shape[5]))
    return ForeignRows(rows, JOINT_FRAMES, time_positions=time_positions)


def _hdf5_array(dataset: Any) -> npt.NDArray[np.floating]:
    """The values of a dataset that stores them in the file itself and is not too large."""
    if not isinstance(dataset, h5py.Dataset):
        raise ValueError("its dataset features is a group, not an array")
    creation = dataset.id.get_create_plist()
    filters = {creation.get_filter(index)[0] for index in range(creation.get_nfilters())}
    if dataset.is_virtual or dataset.external or not filters <= HDF5_FILTERS:
        raise ValueError(
            "its dataset features has external or virtual storage, or an unsupported filter"
        )
    if dataset.nbytes > MAX_BYTES:
        raise ValueError("its dataset features is larger than 4 GiB")
    return _floats(dataset[()])


def _segments(array: npt.NDArray[Any]) -> ForeignRows:
    if array.ndim != 2:
        raise ValueError(f"it has the shape {array.shape}, not (segments, values)")
    return ForeignRows(_with_rows(_floats(array)[:, None]), are_segments=True)


def _floats(array: npt.NDArray[Any]) -> npt.NDArray[np.floating]:
    if array.dtype.kind != "f":
        raise ValueError(f"its values are of type {array.dtype}, not floating-point numbers")
    return array


def _narrowed(rows: ForeignRows) -> ForeignRows:
    """The same rows in memory: values stored as float16 remain so, others become float32."""
    given, dtype = rows.features, np.float16 if rows.features.dtype.itemsize == 2 else np.float32
    with np.errstate(over="ignore"):  # too large values become infinite, and are rejected
        features: npt.NDArray[np.floating] = np.array(given, dtype)
    is_rounded = given.dtype.itemsize > 4 and not np.array_equal(features, given)
    return replace(rows, features=features, num_rounded=int(is_rounded))


def _with_rows(array: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    if not array.size:
        raise ValueError(f"it has the shape {array.shape}, which is empty")
    return array
