"""The options of every command: frozen dataclasses from which the command line is built.

A field's docstring is its help text. Importing this module loads neither torch nor a decoder.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from pipeline.recipe import Recipe

Videos = Annotated[Positional[tuple[str, ...]], arg(metavar="VIDEOS...")]
DecoderName = Literal["auto", "decord", "pyav", "nvdec"]
PrecisionName = Literal["auto", "fp32", "fp16", "bf16"]
Which = Literal["best", "last"]
CropOrder = Literal["rtfm", "oversample", "deepmil", "vigil", "unnamed"]

VIDEO_EXTENSIONS = (
    ".mp4,.avi,.mkv,.mov,.m4v,.mpg,.mpeg,.webm,.wmv,.flv,.ts,.mts,.m2ts,.3gp,.ogv,.asf,.vob,.dav,"
    ".h264,.264,.h265,.hevc,.mjpg,.mjpeg"
)


@dataclass(frozen=True)
class LogOptions:
    """What is said while a command runs; on standard error."""

    quiet: bool = False
    """Say only what went wrong."""
    verbose: bool = False
    """Say everything."""
    log_json: Path | None = None
    """Also write every message to this file, one JSON object a line."""


@dataclass(frozen=True)
class ComputeOptions:
    """How videos are decoded and features computed; none of it changes what a feature means."""

    decoder: DecoderName = "auto"
    """auto: decord, and PyAV for videos that are long, or that decord cannot read whole; nvdec: the
    decoder of an NVIDIA GPU."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N; several with commas, or all GPUs of the machine: all."""
    precision: PrecisionName = "auto"
    """auto: fp16 on CUDA, bf16 on a CPU that has instructions for it, fp32 on any other."""
    compile: bool = False
    """Have torch.compile fuse the steps of the network, which takes a minute or more. CUDA only."""
    batch_size: int | None = None
    """Clip-views that the network sees at once; by default 1 on a CPU and 24 on CUDA."""
    workers: Literal["auto"] | int = "auto"
    """Processes that decode, each one video or part of it; auto: as many as the device is seen to
    need; 0: decode in this process."""
    stall_seconds: float = 60.0
    """A process that decodes is given up when no frame has come for so long; not with 0 workers."""
    worker_memory_gib: float = 4.0
    """Memory that each process that decodes may take besides what it starts with, and that clips of
    a video may take; one that needs more is a failure."""
    max_damage: str | None = None
    """A video of which more than this share of the frames is damaged is a failure: 10% or 0.1."""
    extensions: str = VIDEO_EXTENSIONS
    """Endings of the files that are taken for videos in a folder, with commas."""
    follow_links: bool = False
    """Also take videos in a folder that are links to files outside of it."""
    picture_fps: float = 25.0
    """Frames a second of videos that are folders of pictures (.jpg, .png, .tif)."""


@dataclass(frozen=True)
class ExtractOptions:
    """Extract the features of videos into a folder of HDF5 files, one per video."""

    videos: Videos
    """Folders (searched with all their subfolders), video files, folders of pictures, patterns with
    * or ?, or text files with a path a line."""
    out: Path
    """Folder of the feature files; they keep the videos' relative paths."""
    backbone: str = "i3d"
    """The network, one of vigil weights list; several on the same clips: swin3d_b+i3d_r50."""
    weights: str = "auto"
    """auto (the official ones, downloaded once), a .pt, .pyth or .safetensors file, or random
    (untrained, to try the program); of several networks one for each, joined by commas."""
    endpoint: str | None = None
    """Stop the network at this layer, such as Mixed_4d; by default at its end. Of several networks
    one for each: Mixed_4d+AvgPool."""
    time_pool: Literal["none", "mean"] = "none"
    """mean: average the time positions of a clip's feature."""
    views: str = "center"
    """center, five (with the corners), ten (with mirror images), or names of views with commas."""
    segments: int = 32
    """Number of segments: equal stretches into which each video is divided."""
    clip_stride: int = 64
    """Frames from the start of a clip to the start of the next; a clip has 64 frames."""
    short_side: str = "256"
    """Short side in pixels to which frames are resized; native keeps them, which takes memory for 2
    clips of full frames per worker (800 MB at 1080p)."""
    keep_clips: bool = False
    """Store every clip's feature beside the segments'."""
    overwrite: bool = False
    """Extract again what is there with other settings, or of another version of a video."""
    dry_run: bool = False
    """Say what would be done, and do nothing."""
    compute: OmitArgPrefixes[ComputeOptions] = field(default_factory=ComputeOptions)
    logs: OmitArgPrefixes[LogOptions] = field(default_factory=LogOptions)


@dataclass(frozen=True)
class TrainOptions:
    """Train the joint model on features and video-level labels."""

    features: Positional[Path]
    """Folder of feature files, as vigil extract writes it."""
    out: Path
    """Folder of the run: checkpoints, logs, the split."""
    annotations: tuple[Path, ...] = ()
    """Label files: lists and annotations of the datasets in docs/datasets.md, or CSV with
    video,class. Only classes are read. Without any, each video's folder names its class."""
    config: Path | None = None
    """TOML file of a recipe, such as configs/ucf_crime.toml; flags win over it."""
    seed: int = 0
    """Seed of the weights, the hold-out and the batches."""
    views: str = "center"
    """Views to train on; the paper trains on the center one."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    resume: bool = False
    """Go on from where the run in --out stopped."""
    overwrite: bool = False
    """Begin anew where --out already holds a run."""
    memory_gib: float | None = None
    """Memory that features may take; more of them are read from a temporary file in --out, batch by
    batch. By default two thirds of what is free."""
    recipe: OmitArgPrefixes[Recipe] = field(default_factory=Recipe)
    logs: OmitArgPrefixes[LogOptions] = field(default_factory=LogOptions)


@dataclass(frozen=True)
class EvaluateOptions:
    """Evaluate a run on features with annotated frames; prints one `name value` line each."""

    run: Positional[Path]
    """Folder of a run, or of one of its checkpoints."""
    features: Positional[Path]
    """Folder of feature files."""
    annotations: tuple[Path, ...]
    """Files with anomalous frame ranges: those of the datasets in docs/datasets.md, or CSV with
    video,class,start_frame,end_frame."""
    out: Path | None = None
    """Folder of the results; by default RUN/evaluation."""
    views: str | None = None
    """Views whose scores are averaged; by default all that the feature files hold."""
    which: Which = "best"
    """The checkpoint that was best on validation, or the last one."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    bootstrap: int = 1000
    """Resamples of the videos for the 95 % intervals."""
    seed: int = 0
    """Seed of the resampling."""
    figures: tuple[str, ...] = ()
    """Videos to draw scores and attention of; by default the first of each class."""
    logs: OmitArgPrefixes[LogOptions] = field(default_factory=LogOptions)


@dataclass(frozen=True)
class CompareOptions:
    """Compare two runs, or two folders of runs with several seeds, by a paired bootstrap."""

    run: Positional[Path]
    """Folder of a run that vigil evaluate has judged, or of several: a subfolder each."""
    other: Positional[Path]
    """What to compare it with, judged on the same videos."""
    bootstrap: int = 2000
    """Resamples of videos and seeds for the 95 % intervals."""
    seed: int = 0
    """Seed of the resampling."""
    logs: OmitArgPrefixes[LogOptions] = field(default_factory=LogOptions)


@dataclass(frozen=True)
class BenchMethodsOptions:
    """Train, evaluate and tabulate many methods over several seeds; goes on where it stopped."""

    features: Positional[Path]
    """Folder of the training videos' features; of all videos with --test-share."""
    config: Path
    """TOML file that lists the methods, such as configs/yardstick.toml."""
    out: Path
    """Folder of the runs, and of table.md, table.json and table.html."""
    annotations: tuple[Path, ...] = ()
    """Label files of the training videos, as for vigil train."""
    test_features: Path | None = None
    """Folder of the test videos' features."""
    test_annotations: tuple[Path, ...] = ()
    """Files with the anomalous frames of the test videos, as for vigil evaluate."""
    test_share: float | None = None
    """Instead of both: hold out this share of each class for testing, drawn anew for each seed; the
    annotations then have frames."""
    views: str = "center"
    """Views to train on."""
    test_views: str | None = None
    """Views whose scores are averaged; by default all that the feature files hold."""
    only: tuple[str, ...] = ()
    """Names of rows to train; the others are shown as far as they are there."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    bootstrap: int = 1000
    """Resamples of videos and seeds for the 95 % intervals."""
    overwrite: bool = False
    """Train again what is there with other settings."""
    memory_gib: float | None = None
    """Memory that features may take, as for vigil train."""
    note: tuple[str, ...] = ()
    """Sentences that a reader of table.html must know, such as what is missing."""
    logs: OmitArgPrefixes[LogOptions] = field(default_factory=LogOptions)


@dataclass(frozen=True)
class ReproduceOptions:
    """Reproduce a table on a published dataset: check, extract, train, judge, one page."""

    name: Positional[str]
    """Name of the dataset, as vigil dataset list has it."""
    videos: Path | None = None
    """Folder with all its videos."""
    features: Path | None = None
    """Instead of them: folder with the features of all its videos."""
    annotations: tuple[Path, ...] = ()
    """The official lists and truth, by their official names; by default those below the folder."""
    out: Path = Path("runs/reproduction")
    """Folder of everything that is made."""
    config: Path = Path("configs/table1.toml")
    """TOML file that lists the methods."""
    only: tuple[str, ...] = ()
    """Names of rows to train; by default all."""
    train_views: str = "center"
    """Views to train on."""
    views: str = "five"
    """Views to extract, and whose scores are averaged in the test."""
    weights: str = "auto"
    """The backbone's weights, as for vigil extract."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    bootstrap: int = 1000
    """Resamples of videos and seeds for the 95 % intervals."""
    allow_missing: bool = False
    """Go on without the videos that are missing or cannot be read; the page says so."""
    overwrite: bool = False
    """Extract and train again what is there with other settings."""
    memory_gib: float | None = None
    """Memory that features may take in training, as for vigil train."""
    logs: OmitArgPrefixes[LogOptions] = field(default_factory=LogOptions)


@dataclass(frozen=True)
class ScoreOptions:
    """Label videos: score every segment of each, name its class, and write a report."""

    videos: Videos
    """Folders (searched with all their subfolders), video files, folders of pictures, patterns with
    * or ?, or text files with a path a line."""
    checkpoint: Path
    """Folder of a run, or of one of its checkpoints; it says how features are extracted."""
    out: Path
    """Folder of the results; the features are kept in its folder features."""
    weights: str | None = None
    """The backbone's weights file, where it is not where the training had it."""
    views: str = "center"
    """Views whose scores are averaged; the paper tests on five."""
    threshold: str = "auto"
    """Score from which a segment belongs to an event; auto: the run's own, chosen on validation."""
    overwrite: bool = False
    """Extract again what is there with other settings, or of another version of a video."""
    which: Which = "best"
    """The checkpoint that was best on validation, or the last one."""
    dry_run: bool = False
    """Say what would be done, and do nothing."""
    compute: OmitArgPrefixes[ComputeOptions] = field(default_factory=ComputeOptions)
    logs: OmitArgPrefixes[LogOptions] = field(default_factory=LogOptions)


@dataclass(frozen=True)
class ReportOptions:
    """Write the report of a folder of results again."""

    results: Positional[Path]
    """Folder that vigil score wrote."""
    logs: OmitArgPrefixes[LogOptions] = field(default_factory=LogOptions)


@dataclass(frozen=True)
class FeaturesVerifyOptions:
    """Check every byte of feature files; ends with 3 if any is damaged, and 4 if all are."""

    features: Positional[Path]
    """Folder of feature files, or one of them."""
    videos: tuple[str, ...] = ()
    """Check, too, that each of these has features, and is still the video that they were made of:
    folders, video files, patterns or lists, as for vigil extract."""
    repair: bool = False
    """Extract again what is damaged, missing or changed, with the settings of the whole files."""
    weights: str | None = None
    """The backbone's weights file for that, where it is not where it was."""
    compute: OmitArgPrefixes[ComputeOptions] = field(default_factory=ComputeOptions)
    logs: OmitArgPrefixes[LogOptions] = field(default_factory=LogOptions)


@dataclass(frozen=True)
class FeaturesShowOptions:
    """Show what feature files hold and how they were made."""

    features: Positional[Path]
    """Folder of feature files, or one of them."""
    logs: OmitArgPrefixes[LogOptions] = field(default_factory=LogOptions)


@dataclass(frozen=True)
class FeaturesImportOptions:
    """Import features that another program computed; docs/exchange.md says whose."""

    sources: Annotated[Positional[tuple[str, ...]], arg(metavar="SOURCES...")]
    """Folders with .npy, .npz, .txt or .h5 files, or such .npy, .npz or .h5 files; one or ten a
    video."""
    out: Path
    """Folder of the feature files; they keep the files' relative paths."""
    backbone: str = "unknown"
    """What to call the network that the features come from."""
    crops: CropOrder | None = None
    """Whose order several crops have: rtfm (also MGFN's), deepmil (also XD-Violence's, VadCLIP's,
    and what UR-DMU trains on), oversample (what UR-DMU's own extraction and
    I3D_Feature_Extraction_resnet write), vigil (an export with a file per crop), or unnamed: they
    become crop_0 to crop_9."""
    crops_first: bool = False
    """The crops are the first of three axes, as UR-DMU's extraction writes them."""
    frames_per_snippet: int | None = None
    """Frames that a row is of, where the format does not fix it."""
    pooled: bool = False
    """The rows are the segments already; of .npz and .txt files they are anyway."""
    segments: int = 32
    """Number of segments: equal stretches into which each video is divided."""
    num_frames: Path | None = None
    """CSV with video,frames or video,frames,fps a line; needed where rows are segments and the
    features are not only for training."""
    fps: float = 30.0
    """Frames a second, which no format says: times in seconds follow from it."""
    list_file: Path | None = None
    """Import only the files that this list names, a path a line; their folders do not matter."""
    follow_links: bool = False
    """Also take files in a folder that are links to files outside of it."""
    overwrite: bool = False
    """Replace features of another origin that are there."""
    logs: OmitArgPrefixes[LogOptions] = field(default_factory=LogOptions)


@dataclass(frozen=True)
class FeaturesExportOptions:
    """Export features as RTFM, MGFN or UR-DMU read them: .npy files, and a list."""

    features: Positional[Path]
    """Folder of feature files, extracted with --keep-clips."""
    out: Path
    """Folder of the files, their list, the truth of the frames and the numbers of frames."""
    annotations: tuple[Path, ...] = ()
    """Label files, as for vigil train and evaluate; only labelled videos are exported, anomalous
    ones first. Without any, each video's folder names its class."""
    crops: CropOrder | None = None
    """Whose order the crops get: by default rtfm, or with a file per crop vigil, which has the
    center first; without all ten or five of it, the center alone is exported."""
    file_per_crop: bool = False
    """Write NAME__0.npy, NAME__1.npy and so on, as UR-DMU, DeepMIL and VadCLIP read them."""
    frames_per_snippet: int = 16
    """Frames that a row is of; RTFM's and UR-DMU's tests count on 16."""
    pooled: bool = False
    """Write the segments instead of clips; enough for training."""
    logs: OmitArgPrefixes[LogOptions] = field(default_factory=LogOptions)


@dataclass(frozen=True)
class DatasetListOptions:
    """List the published datasets whose official splits are known."""

    logs: OmitArgPrefixes[LogOptions] = field(default_factory=LogOptions)


@dataclass(frozen=True)
class DatasetCheckOptions:
    """Check that a published dataset is complete: videos, labels, frames; ends with 3 if not."""

    name: Positional[str]
    """Name of a dataset, as vigil dataset list has it."""
    root: Positional[Path]
    """Folder with all its videos, as files or as folders of pictures; or with their features."""
    features: bool = False
    """ROOT holds feature files, as vigil extract writes them, instead of videos."""
    annotations: tuple[Path, ...] = ()
    """The official lists and truth, by their official names; by default those below ROOT."""
    write: Path | None = None
    """Folder for label files that vigil train and evaluate read: train.csv, test.csv, and
    problems.csv."""
    extensions: str = VIDEO_EXTENSIONS
    """Endings of the files that are taken for videos, with commas."""
    follow_links: bool = False
    """Also take videos that are links to files outside of ROOT."""
    logs: OmitArgPrefixes[LogOptions] = field(default_factory=LogOptions)


@dataclass(frozen=True)
class WeightsListOptions:
    """List the backbones, their official weights, and whether those are on this machine."""

    logs: OmitArgPrefixes[LogOptions] = field(default_factory=LogOptions)


@dataclass(frozen=True)
class WeightsFetchOptions:
    """Download a backbone's official weights; goes on where an earlier download broke off."""

    backbone: Positional[str]
    """Name of a backbone, as vigil weights list has it, or of several, joined by plus signs."""
    logs: OmitArgPrefixes[LogOptions] = field(default_factory=LogOptions)


@dataclass(frozen=True)
class WeightsVerifyOptions:
    """Check a weights file: readable without running it, and complete up to an endpoint."""

    backbone: Positional[str]
    """Name of a backbone, as vigil weights list has it."""
    weights: Positional[str] = "auto"
    """The file; by default the official one in the cache."""
    endpoint: str | None = None
    """Check up to this layer only."""
    logs: OmitArgPrefixes[LogOptions] = field(default_factory=LogOptions)


@dataclass(frozen=True)
class DemoOptions:
    """Draw videos, extract, train, evaluate and score them: the whole program in minutes."""

    out: Path = Path("runs/demo")
    """Folder of everything the demo makes."""
    weights: str = "auto"
    """The backbone's weights; auto falls back to random ones where none can be had, and says so."""
    seed: int = 0
    """Seed of the videos and the training."""
    logs: OmitArgPrefixes[LogOptions] = field(default_factory=LogOptions)
