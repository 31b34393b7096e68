"""The HDF5 feature file: one per video, written aside and renamed, verified when read.

Anyone can read it with h5py alone: ``/segments/features`` (V, S, D), ``/segments/frames`` (S, 2),
``/segments/seconds`` (S, 2), with ``--keep-clips`` ``/clips/features`` (N_clips, V, D) and
``/clips/frames``; everything else is in the attributes of the root group.
Legend: V views, S segments, D = time positions x channels, time-major.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from extract.errors import UserError
from extract.segments import segment_ranges
from extract.source import VideoIdentity
from extract.spec import FeatureSpec

FORMAT = "vigil-features"
FORMAT_VERSION = 1
SUFFIX = ".h5"
PARTIAL_SUFFIX = ".partial"

# What h5py raises on bytes that are not what they should be.
DAMAGE = (OSError, KeyError, ValueError, TypeError, RuntimeError, OverflowError, MemoryError)


class FeatureFileError(UserError):
    """A feature file is missing, damaged, incomplete, or not what the caller asked for."""


class ForeignFileError(FeatureFileError):
    """A file is whole, but none that this program may replace: of something else, or newer."""


@dataclass(frozen=True, eq=False)
class VideoFeatures:
    """Everything in one feature file."""

    features: npt.NDArray[np.floating]
    """(V, S, D) float16 or float32."""
    segment_frames: npt.NDArray[np.int64]
    """(S, 2) half-open ranges of decoded frames."""
    segment_seconds: npt.NDArray[np.float64]
    """(S, 2) from the frames' own timestamps; the first frame is at 0."""
    clip_features: npt.NDArray[np.floating] | None
    """(N_clips, V, D), only with --keep-clips."""
    clip_frames: npt.NDArray[np.int64] | None
    """(N_clips, 2) half-open ranges of real frames, only with --keep-clips."""
    views: tuple[str, ...]
    spec: FeatureSpec
    time_positions: int
    channels: int
    weights_name: str
    weights_trained: bool
    """False for random weights: the features then say nothing about the world."""
    precision: str
    rung: str
    """Form of the network that computed it, such as folded or plain; empty in older files."""
    device: str
    decoder: str
    video: VideoIdentity
    fps: float
    width: int
    height: int
    num_frames_container: int
    """What the container promises; 0 where it does not say."""
    num_frames_decoded: int
    num_frames_damaged: int
    """Frames that could not be decoded, or only with errors."""
    versions: dict[str, str]
    created_at: str

    def select_views(self, names: Sequence[str]) -> npt.NDArray[np.floating]:
        """(v, S, D), the features of the named views in the order given.

        Raises:
            FeatureFileError: names the views that the file does not hold.
        """
        missing = [name for name in names if name not in self.views]
        if missing:
            raise FeatureFileError(
                f"{self.video.path}: features hold the views {', '.join(self.views)}, not "
                f"{', '.join(missing)}: extract again with more --views, or ask for fewer"
            )
        return self.features[[self.views.index(name) for name in names]]


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder that becomes ``path`` when the block ends well.

    File and folder are synced before and after the rename, so that after a crash the old content
    or the new one is there, never a part. When the block raises, the temporary file is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    name_digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    partial = path.with_name(f".{name_digest}{PARTIAL_SUFFIX}")
    try:
        yield partial
        _sync(partial)
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        raise
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(root: Path) -> list[Path]:
    """Remove what killed runs left half-written below a folder, and return those paths.

    Call it only while no other run can be writing there.
    """
    leftovers = sorted(root.rglob(f".*{PARTIAL_SUFFIX}"))
    for path in leftovers:
        path.unlink()
    return leftovers


def feature_path(root: Path, video: str) -> Path:
    """Where the features of a video lie: ``<root>/<video path relative to its root>.h5``."""
    return root / (video + SUFFIX)


def list_features(root: Path) -> dict[str, Path]:
    """Relative video path (forward slashes) -> its feature file, sorted by name.

    Raises:
        FeatureFileError: the folder does not exist.
    """
    if not root.is_dir():
        raise FeatureFileError(f"{root} is no folder of features: run vigil extract first")
    files = {
        path.relative_to(root).as_posix().removesuffix(SUFFIX): path
        for path in root.rglob(f"*{SUFFIX}")
        if not path.name.startswith(".")
    }
    return dict(sorted(files.items()))


def write_features(path: Path, video: VideoFeatures) -> None:
    """Write a feature file so that it exists whole or not at all.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    # Made in memory: HDF5 writing to a disk that fills up does not raise, it crashes the process.
    # From HDF5 1.10 on, its own structures have checksums, too.
    with h5py.File(path.name, "w", driver="core", backing_store=False, libver="v110") as file:
        _write_array(file, "segments/features", video.features, by_view=True)
        _write_array(file, "segments/frames", video.segment_frames)
        _write_array(file, "segments/seconds", video.segment_seconds)
        if video.clip_features is not None and video.clip_frames is not None:
            _write_array(file, "clips/features", video.clip_features, by_view=True)
            _write_array(file, "clips/frames", video.clip_frames)
        file.attrs.update(_attributes(video))
        file.attrs["content_digest"] = _content_digest(file)
        file.attrs["complete"] = np.uint8(1)
        file.flush()
        image = file.id.get_file_image()
    with replace_file(path) as partial:
        partial.write_bytes(image)


def _write_array(
    file: h5py.File, name: str, array: npt.NDArray[Any], by_view: bool = False
) -> None:
    chunks = (1, *array.shape[1:]) if by_view else array.shape
    file.create_dataset(name, data=array, chunks=chunks, fletcher32=True)


def _attributes(video: VideoFeatures) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "spec": video.spec.to_json(),
        "spec_digest": video.spec.digest,
        "backbone": video.spec.backbone,
        "views": list(video.views),
        "time_positions": video.time_positions,
        "channels": video.channels,
        "weights_name": video.weights_name,
        "weights_digest": video.spec.weights_digest,
        "weights_trained": video.weights_trained,
        "precision": video.precision,
        "rung": video.rung,
        "device": video.device,
        "decoder": video.decoder,
        "video_path": video.video.path.encode(errors="backslashreplace").decode(),
        "video_bytes": video.video.num_bytes,
        "video_modified_ns": video.video.modified_ns,
        "video_digest": video.video.digest,
        "fps": video.fps,
        "width": video.width,
        "height": video.height,
        "num_frames_container": video.num_frames_container,
        "num_frames_decoded": video.num_frames_decoded,
        "num_frames_damaged": video.num_frames_damaged,
        "versions": json.dumps(video.versions, sort_keys=True),
        "created_at": video.created_at,
    }


def _content_digest(file: h5py.File) -> str:
    """sha256 over every dataset and every attribute but the two that are written last."""
    digest = hashlib.sha256()

    def add(name: str, value: npt.NDArray[Any]) -> None:
        if value.dtype.kind == "O":
            content = json.dumps([str(item) for item in value.ravel()]).encode()
        else:
            content = np.ascontiguousarray(value).tobytes()
        header = json.dumps([name, value.dtype.str, list(value.shape), len(content)])
        digest.update(header.encode() + content)

    datasets: list[str] = []
    file.visititems(lambda name, node: datasets.append(name) if hasattr(node, "dtype") else None)
    for name in sorted(datasets):
        add("/" + name, file[name][()])
    for name in sorted(set(file.attrs) - {"content_digest", "complete"}):
        add(name, np.asarray(file.attrs[name]))
    return digest.hexdigest()


def read_features(path: Path) -> VideoFeatures:
    """The content of a feature file; the checksums of what is read are checked.

    Raises:
        FeatureFileError: the file is not there, no feature file, incomplete or damaged.
    """
    try:
        with _open(path) as file:
            return _read(file)
    except DAMAGE as error:
        raise _damaged(path, str(error)) from error


def read_identity(path: Path) -> VideoFeatures:
    """`read_features` without the arrays of features (they are empty): quick, to plan a run."""
    try:
        with _open(path) as file:
            return _read(file, arrays=False)
    except DAMAGE as error:
        raise _damaged(path, str(error)) from error


def verify_features(path: Path) -> VideoFeatures:
    """The content of a feature file after checking every byte of it.

    Raises:
        FeatureFileError: as `read_features`, and where the digest over all datasets and
            attributes, the shapes, the frame ranges or a value that is not finite is wrong.
    """
    try:
        with _open(path) as file:
            if file.attrs["content_digest"] != _content_digest(file):
                raise _damaged(path, "its content does not match its digest")
            video = _read(file)
    except DAMAGE as error:
        raise _damaged(path, str(error)) from error
    num_segments, size = video.spec.num_segments, video.time_positions * video.channels
    if video.features.shape != (len(video.views), num_segments, size):
        raise _damaged(path, f"features have the shape {video.features.shape}")
    expected = segment_ranges(video.num_frames_decoded, num_segments)
    if not np.array_equal(video.segment_frames, expected):
        raise _damaged(path, "segments do not partition the decoded frames")
    arrays = [video.features, video.segment_seconds]
    if video.clip_features is not None:
        arrays.append(video.clip_features)
    if not all(np.isfinite(array).all() for array in arrays):
        raise _damaged(path, "it holds values that are not finite")
    return video


def _damaged(path: Path, reason: str) -> FeatureFileError:
    reason = " ".join(reason.split())
    return FeatureFileError(
        f"{path} is damaged ({reason}): delete it, then run the same vigil extract again"
    )


@contextmanager
def _open(path: Path) -> Iterator[h5py.File]:
    if not path.is_file():
        raise FeatureFileError(f"{path} is not there: run vigil extract first")
    if not h5py.is_hdf5(path):
        raise FeatureFileError(f"{path} is no HDF5 file: delete it and extract again")
    with h5py.File(path, "r") as file:
        if file.attrs.get("format") != FORMAT:
            raise ForeignFileError(
                f"{path} is an HDF5 file of something else: move it out of the folder of features"
            )
        if file.attrs["format_version"] != FORMAT_VERSION:
            raise ForeignFileError(
                f"{path} has format version {file.attrs['format_version']}, this program reads "
                f"{FORMAT_VERSION}: extract again, or use the matching version of vigil"
            )
        if file.attrs.get("complete") != 1:
            raise FeatureFileError(f"{path} is incomplete: delete it and extract again")
        yield file


def _read(file: h5py.File, arrays: bool = True) -> VideoFeatures:
    attributes = dict(file.attrs)
    features = file["segments/features"]
    clips = file.get("clips/features")
    spec = FeatureSpec.from_json(attributes["spec"])
    if spec.digest != attributes["spec_digest"]:
        raise ValueError("its spec does not match the spec's digest")
    return VideoFeatures(
        features=features[()] if arrays else features[:0],
        segment_frames=file["segments/frames"][()],
        segment_seconds=file["segments/seconds"][()],
        clip_features=None if clips is None else clips[()] if arrays else clips[:0],
        clip_frames=None if clips is None else file["clips/frames"][()],
        views=tuple(str(view) for view in attributes["views"]),
        spec=spec,
        time_positions=int(attributes["time_positions"]),
        channels=int(attributes["channels"]),
        weights_name=str(attributes["weights_name"]),
        weights_trained=bool(attributes["weights_trained"]),
        precision=str(attributes["precision"]),
        rung=str(attributes.get("rung", "")),
        device=str(attributes["device"]),
        decoder=str(attributes["decoder"]),
        video=VideoIdentity(
            path=str(attributes["video_path"]),
            num_bytes=int(attributes["video_bytes"]),
            modified_ns=int(attributes["video_modified_ns"]),
            digest=str(attributes["video_digest"]),
        ),
        fps=float(attributes["fps"]),
        width=int(attributes["width"]),
        height=int(attributes["height"]),
        num_frames_container=int(attributes["num_frames_container"]),
        num_frames_decoded=int(attributes["num_frames_decoded"]),
        num_frames_damaged=int(attributes["num_frames_damaged"]),
        versions=json.loads(attributes["versions"]),
        created_at=str(attributes["created_at"]),
    )
