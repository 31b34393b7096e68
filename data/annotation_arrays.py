"""Frame truth as arrays and masks -> rows.

* ``.npz``: one array per video, under its name, with a number per frame, 0 if it is normal;
* ``.npy``: the same for a single video named after the file, or a mask (frames, height, width);
* ``.mat``: UCSD's ``gt``, one cell per video with (2, n) first and last frames counted from 1, for
  videos 01, 02, ...; or Avenue's ``volLabel``, one cell per frame with its mask, in a file
  named ``1_label.mat`` for video 01;
* a folder of any of these, of UCSD's mask pictures ``Test003_gt/001.bmp``, or of UBnormal's
  ``<video>_tracks.txt`` with lines of ``object, first frame, last frame`` counted from 0.

None of these formats specifies classes.
"""

import re
import resource
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vigil.data.annotation_rows import AnnotationError, Row
from vigil.extract.processes import without_main
from vigil.extract.source import natural_order

MAX_BYTES = 1 << 30
"""Size limit for one array or MATLAB file."""
_ARRAY_EXTENSIONS = (".npz", ".npy", ".mat")
_MASK_FOLDER, _TRACKS = "_gt", "_tracks.txt"
_OTHER_TRACKS = "_new_tracks.txt"
"""UBnormal's tracks for region metrics; its frame-level truth is in the other files."""
_MASK_EXTENSIONS = (".bmp", ".png", ".tif", ".tiff")
_AVENUE_NAME = re.compile(r"(\d+)_label")


def is_array(path: Path) -> bool:
    """Whether this file or folder holds frame-level truth as arrays or masks, not as text."""
    is_file = path.suffix.lower() in _ARRAY_EXTENSIONS or path.name.endswith(_TRACKS)
    return path.is_dir() or is_file


def array_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file or folder of frame-level truth, one per video.

    Raises:
        AnnotationError: names the file, the problem and the remedy.
    """
    if path.is_dir():
        yield from _folder_rows(path)
        return
    if path.name.endswith(_TRACKS):
        yield _tracks_row(path)
        return
    readers: dict[str, Callable[[Path], Iterator[Row]]] = {
        ".npz": _npz_rows,
        ".npy": _npy_rows,
        ".mat": _mat_rows,
    }
    try:
        if path.stat().st_size > MAX_BYTES:
            raise AnnotationError(f"{path} is larger than {MAX_BYTES} bytes: check the file")
        yield from readers[path.suffix.lower()](path)
    except AnnotationError:
        raise
    except OSError as error:
        reason = error.strerror or error
        raise AnnotationError(f"{path} cannot be read ({reason}): check the file") from error
    except Exception as error:  # what the readers of these formats raise is not documented
        raise AnnotationError(
            f"{path} cannot be read as frame-level truth ({type(error).__name__}: "
            f"{' '.join(str(error).split())}): check the file"
        ) from error


def _npz_rows(path: Path) -> Iterator[Row]:
    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > MAX_BYTES:
            raise AnnotationError(f"{path} expands to more than {MAX_BYTES} bytes: check the file")
    with np.load(path) as arrays:
        for name in arrays.files:
            yield _mask_row(name, arrays[name], f"{path}:{name}")


def _npy_rows(path: Path) -> Iterator[Row]:
    # Memory-mapped, so that a header cannot claim more memory than the file has bytes.
    yield _mask_row(path.stem, np.load(path, mmap_mode="r"), str(path))


def _mat_rows(path: Path) -> Iterator[Row]:
    # Damaged MATLAB files can crash SciPy or expand until memory is exhausted.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            with without_main():
                rows = pool.submit(_limited_mat_rows, path)
            yield from rows.result()
        except BrokenProcessPool as error:
            raise AnnotationError(f"{path} crashed its reader: check the file") from error


def _limited_mat_rows(path: Path) -> list[Row]:
    """Read the rows within `MAX_BYTES` of memory; must run in a process of its own."""
    from scipy.io import loadmat  # slow to import, and seldom needed

    status = Path("/proc/self/status").read_text().splitlines()
    used = next(int(line.split()[1]) << 10 for line in status if line.startswith("VmData:"))
    resource.setrlimit(resource.RLIMIT_DATA, (used + MAX_BYTES, used + MAX_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return list(_rows_of_mat(path, loadmat(path)))


def _rows_of_mat(path: Path, content: dict[str, Any]) -> Iterator[Row]:
    if "gt" in content:
        for number, frames in enumerate(content["gt"].flat, start=1):
            if frames.size % 2 or (frames.size > 2 and len(frames) != 2):
                raise ValueError(f"gt {number} has the shape {frames.shape}, not (2, n)")
            pairs = frames.astype(np.int64).reshape(2, -1).T.tolist()
            ranges = tuple((first - 1, last) for first, last in pairs)
            yield Row(f"{number:02}", (), ranges, source=f"{path}:{number}")
    elif "volLabel" in content:
        match = _AVENUE_NAME.fullmatch(path.stem)
        name = f"{int(match[1]):02}" if match else path.stem
        masks = content["volLabel"].flat
        yield _mask_row(name, np.array([np.any(mask) for mask in masks]), str(path))
    else:
        names = ", ".join(sorted(name for name in content if not name.startswith("__")))
        raise AnnotationError(f"{path} holds {names or 'nothing'}: it must hold gt or volLabel")


def _mask_row(video: str, mask: npt.NDArray[Any], source: str) -> Row:
    """The row of a video from a number or a mask per frame."""
    if mask.dtype.kind not in "biuf" or mask.ndim == 0 or mask.size == 0:
        raise AnnotationError(
            f"{source} is not frame-level truth ({mask.dtype} of shape {mask.shape}): it needs a "
            "number per frame"
        )
    if mask.dtype.kind in "if" and not (mask >= 0).all():
        raise AnnotationError(
            f"{source} is not frame-level truth, because it holds negative values or NaN: "
            "check the file"
        )
    if mask.ndim == 2 and 1 in mask.shape:
        mask = mask.reshape(-1)
    elif mask.ndim == 2:
        raise AnnotationError(
            f"{source} is not frame-level truth (shape {mask.shape}): it needs (frames,) or a mask "
            "per frame (frames, height, width)"
        )
    truth: npt.NDArray[np.bool_] = np.any(mask.reshape(len(mask), -1), axis=1)
    return Row(video, (), _ranges(truth), len(mask), source)


def _ranges(truth: npt.NDArray[np.bool_]) -> tuple[tuple[int, int], ...]:
    """The half-open ranges of frames for which (frames,) is true."""
    edges = np.flatnonzero(np.diff(truth.astype(np.int8), prepend=0, append=0))
    return tuple((int(start), int(stop)) for start, stop in edges.reshape(-1, 2))


def _folder_rows(folder: Path) -> Iterator[Row]:
    """Yield the rows of the files in a folder; for tracks, those in all its subfolders."""
    paths = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    found = False
    for path in paths:
        if path.suffix.lower() in _ARRAY_EXTENSIONS and path.is_file():
            found = True
            yield from array_rows(path)
        elif path.name.endswith(_MASK_FOLDER) and path.is_dir():
            found = True
            yield _pictures_row(path)
    if found:
        return
    for path in sorted(folder.rglob(f"*{_TRACKS}")):
        found = True
        if not path.name.endswith(_OTHER_TRACKS):
            yield _tracks_row(path)
    if not found:
        raise AnnotationError(
            f"{folder} holds no frame-level truth (.npy, .npz, .mat, *{_MASK_FOLDER}/, "
            f"*{_TRACKS}): give the annotation file itself, or the folder that contains the truth"
        )


def _pictures_row(folder: Path) -> Row:
    from PIL import Image  # slow to import, and seldom needed

    truth = []
    for path in sorted(folder.iterdir(), key=lambda path: natural_order(path.name)):
        if path.name.startswith("."):
            continue
        if path.suffix.lower() in _MASK_EXTENSIONS:
            try:
                with Image.open(path, formats=("BMP", "PNG", "TIFF")) as picture:
                    truth.append(np.any(np.asarray(picture)))
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                raise AnnotationError(
                    f"{path} is not a readable picture ({error}): check the file"
                ) from error
    name = folder.name.removesuffix(_MASK_FOLDER)
    return _mask_row(name, np.array(truth, np.bool_), str(folder))


def _tracks_row(path: Path) -> Row:
    try:
        tracks = np.loadtxt(path, delimiter=",", ndmin=2, encoding="utf-8", max_rows=1 << 20)
    except (OSError, ValueError) as error:
        raise AnnotationError(f"{path} cannot be read ({error}): check the file") from error
    if tracks.size and (tracks.shape[1] < 3 or not np.isfinite(tracks).all()):
        raise AnnotationError(
            f"{path} is not a list of tracks: each line must be object, first frame, last frame"
        )
    ranges = tuple((int(first), int(last) + 1) for first, last in tracks[:, 1:3])
    return Row(path.name.removesuffix(_TRACKS), (), ranges, source=str(path))
