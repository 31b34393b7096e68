"""The options of every command: frozen dataclasses from which the command line is built.

A field's docstring is its help text. Importing this module must not load torch or a decoder.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from tyro.conf import OmitArgPrefixes, Positional, UseAppendAction, arg
from tyro.constructors import PrimitiveConstructorSpec

from vigil.extract.clips import CLIP_FRAMES
from vigil.extract.decode.decoder_table import AUTO, DECODER_NAMES
from vigil.pipeline.recipe import Recipe
from vigil.pipeline.result_formats import DEFAULT_FORMATS


def _one_or_more(values: list[str]) -> tuple[str, ...]:
    """Return the values of a positional argument; tyro would also accept none.

    Raises:
        ValueError: there are none.
    """
    if not values:
        raise ValueError("name at least one")
    return tuple(values)


OneOrMore: TypeAlias = Annotated[
    Positional[tuple[str, ...]],
    PrimitiveConstructorSpec(
        nargs="*",
        metavar="",
        instance_from_str=_one_or_more,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=list,
    ),
    arg(help_behavior_hint="(required)"),
]
Videos: TypeAlias = Annotated[OneOrMore, arg(metavar="VIDEOS...")]
PrecisionName = Literal["auto", "fp32", "fp16", "bf16"]
Which = Literal["best", "last"]
WhenLate = Literal["drop-oldest", "sparser", "keep-all"]
Static = Literal["compute", "skip"]
CropOrder = Literal["rtfm", "oversample", "deepmil", "vigil", "unnamed"]

if TYPE_CHECKING:
    DecoderName: TypeAlias = str
else:
    DecoderName = Literal[DECODER_NAMES]

VIDEO_EXTENSIONS = (
    ".mp4,.avi,.mkv,.mov,.m4v,.mpg,.mpeg,.webm,.wmv,.flv,.ts,.mts,.m2ts,.3gp,.ogv,.asf,.vob,.dav,"
    ".h264,.264,.avc,.h265,.265,.hevc,.mjpg,.mjpeg,.mpe,.m1v,.m2v,.mp2v,.mpv,.m2p,.m2t,.tp,.trp,"
    ".divx,.xvid,.f4v,.qt,.3g2,.3gpp,.ogm,.rm,.rmvb,.mxf,.dv,.wtv"
)


@dataclass(frozen=True)
class LogOptions:
    """Messages on standard error while a command runs."""

    quiet: bool = False
    """Report errors only."""
    verbose: bool = False
    """Report everything, debug messages included."""
    log_json: Path | None = None
    """Also write every message to this file, one JSON object per line."""


@dataclass(frozen=True)
class ComputeOptions:
    """How videos are decoded and features computed. None of this changes what a feature means."""

    decoder: DecoderName = AUTO
    """auto: decord, or PyAV for videos that are long or that decord cannot read completely; nvdec:
    the decoder of an NVIDIA GPU."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N; several separated by commas; or all, for every GPU."""
    precision: PrecisionName = "auto"
    """auto: fp16 on CUDA, bf16 on a CPU with bf16 instructions, and fp32 on any other CPU."""
    compile: bool = False
    """Compile the network with torch.compile, which takes a minute or more. CUDA only."""
    batch_size: int | None = None
    """Clip-views in one forward pass; by default 1 on a CPU and 24 on CUDA (1 with the view whole,
    since only frames of one size share a pass)."""
    workers: Literal["auto"] | int = "auto"
    """Number of decoding processes, each working on one video or part of one; auto: as many as keep
    the device busy; 0: decode in this process."""
    stall_seconds: float = 60.0
    """Stop a decoding process that delivers no frame for this long; not used with 0 workers."""
    worker_memory_gib: float = 4.0
    """Memory limit of each decoding process, on top of what it uses at the start, and of the clips
    of one video; a video that needs more fails."""
    max_damage: str | None = None
    """Fail a video if more than this share of its frames is damaged, for example 10% or 0.1."""
    extensions: str = VIDEO_EXTENSIONS
    """Extensions of the files in a folder that are treated as videos, separated by commas."""
    follow_links: bool = False
    """Also use videos in a folder that are links to files outside it."""
    picture_fps: float = 25.0
    """Frames per second of videos that are folders of pictures (.jpg, .png, .tif)."""
    input_fps: float | None = None
    """Frames per second of raw streams (such as .h264 or .mjpeg) that state no rate; 25 if not
    given."""


@dataclass(frozen=True)
class ExtractOptions:
    """Extract the features of videos into a folder of HDF5 files, one per video."""

    videos: Videos
    """Folders (searched with all subfolders), video files, folders of pictures, patterns with * or
    ?, text files with one path per line, or s3:// addresses."""
    out: Path
    """Folder for the feature files, which keep the videos' relative paths."""
    backbone: str = "i3d"
    """Network listed by vigil weights list, or several on the same clips: swin3d_b+i3d_r50."""
    weights: str = "auto"
    """auto (the best published weights within reach, fetched once), a name that vigil weights list
    shows, a .pt, .pyth or .safetensors file, or random (untrained, for trying out the program); for
    several networks one each, separated by commas."""
    endpoint: str | None = None
    """Stop the network at this layer, such as Mixed_4d, or read several in one pass:
    Mixed_4d,Mixed_5c; by default at its end. Mixed_4d:max is the maximum over the frame instead of
    the mean. For several networks one each: Mixed_4d+AvgPool."""
    time_pool: Literal["none", "mean"] = "none"
    """mean: average the time positions of a clip's feature."""
    views: str = "center"
    """center, five (with corners), ten (with mirror images), or view names separated by commas. Two
    views show the whole frame: squeeze (resized to 224x224) and whole (at its own size, i3d)."""
    segments: int = 32
    """Number of segments, the equal stretches into which each video is divided."""
    clip_stride: int = CLIP_FRAMES
    """Frames from the start of one clip to the start of the next; a clip has 64 frames."""
    short_side: str = "256"
    """Resize frames to this short side in pixels; native keeps their size, which needs memory for 2
    clips of full-size frames per worker (800 MB at 1080p)."""
    deinterlace: Literal["auto", "on", "off"] = "auto"
    """auto: deinterlace frames that are flagged as interlaced; on: all frames; off: none."""
    frame_rate: str = "native"
    """native: clips take every frame once; or frames per second, such as 25: they take the frames
    nearest to that clock, whatever the rate of the video. Times stay those of the video."""
    static: Static = "compute"
    """skip: clips of a fixed camera in which nothing moves are not computed, and take the feature
    of the last computed clip, which looks the same; compute: all clips are computed."""
    keep_clips: bool = False
    """Store the feature of every clip as well as those of the segments."""
    overwrite: bool = False
    """Replace features made with other settings or from another version of a video."""
    cluster: str | None = None
    """Extract on the nodes of a Ray cluster: HOST:PORT of its head, or auto: the cluster that this
    machine is part of, else this machine alone."""
    fetch_gib: float = 20.0
    """Disk space for copies of videos from s3:// and other addresses, in OUT, in GiB. A copy is
    removed as soon as its video has features."""
    dry_run: bool = False
    """Report what would be done, without doing it."""
    compute: OmitArgPrefixes[ComputeOptions] = field(default_factory=ComputeOptions)
    logs: OmitArgPrefixes[LogOptions] = field(default_factory=LogOptions)


@dataclass(frozen=True)
class TrainOptions:
    """Train the joint model, or another --method, on features and video-level labels."""

    features: Positional[Path]
    """Folder of feature files written by vigil extract."""
    out: Path
    """Folder for the run: checkpoints, logs and the split."""
    annotations: tuple[Path, ...] = ()
    """Label files: lists and annotations of the datasets in docs/datasets.md, CSV with video,class,
    or verdicts exported from a report. Only classes are read. By default the folder of each video
    names its class."""
    config: Path | None = None
    """TOML file with a recipe, or the name of one of vigil's, such as joint_plus; flags override
    it."""
    seed: int = 0
    """Seed for the initial weights, the held-out videos and the batches."""
    views: str = "center"
    """Views to train on; the paper trains on center."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N; under torchrun, auto: each process has the GPU of its number."""
    resume: bool = False
    """Continue the run in --out from where it stopped."""
    overwrite: bool = False
    """Start over if --out already holds a run."""
    memory_gib: float | None = None
    """Memory limit for features; those that exceed it are read batch by batch from a temporary file
    in --out. By default two thirds of the free memory."""
    recipe: OmitArgPrefixes[Recipe] = field(default_factory=Recipe)
    logs: OmitArgPrefixes[LogOptions] = field(default_factory=LogOptions)


@dataclass(frozen=True)
class EvaluateOptions:
    """Evaluate a run on features with annotated frames, and print one `name value` line each."""

    run: Positional[Path]
    """Folder of a run or of one of its checkpoints."""
    features: Positional[Path]
    """Folder of feature files."""
    annotations: tuple[Path, ...]
    """Files with anomalous frame ranges: annotations of the datasets in docs/datasets.md, or CSV
    with video,class,start_frame,end_frame."""
    out: Path | None = None
    """Folder for the results; by default RUN/evaluation."""
    views: str | None = None
    """Views to average the scores over; by default all views in the feature files."""
    which: Which = "best"
    """Which checkpoint to use: the best one on validation, or the last one."""
    span: str = "whole"
    """Longer videos are scored in spans of this length: whole (no spans, as papers do), auto (the
    median length of the training videos) or a number of seconds."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    bootstrap: int = 1000
    """Number of resamples of the videos for the 95 % intervals."""
    seed: int = 0
    """Seed for the resampling."""
    figures: tuple[str, ...] = ()
    """Videos whose scores and attention are plotted; by default the first of each class."""
    logs: OmitArgPrefixes[LogOptions] = field(default_factory=LogOptions)


@dataclass(frozen=True)
class CompareOptions:
    """Compare two runs, or two folders of runs with several seeds, by a paired bootstrap."""

    run: Positional[Path]
    """Folder of a run evaluated by vigil evaluate, or of several, in a subfolder each."""
    other: Positional[Path]
    """Run or folder of runs to compare it with, evaluated on the same videos."""
    bootstrap: int = 2000
    """Number of resamples of videos and seeds for the 95 % intervals."""
    seed: int = 0
    """Seed for the resampling."""
    logs: OmitArgPrefixes[LogOptions] = field(default_factory=LogOptions)


@dataclass(frozen=True)
class BenchMethodsOptions:
    """Train, evaluate and tabulate many methods over several seeds, continuing earlier work."""

    features: Positional[Path]
    """Folder with the features of the training videos; with --test-share, of all videos."""
    config: Path
    """TOML file that lists the methods, or the name of one of vigil's, such as yardstick."""
    out: Path
    """Folder for the runs, table.md, table.json and table.html."""
    annotations: tuple[Path, ...] = ()
    """Label files of the training videos, as for vigil train."""
    test_features: Path | None = None
    """Folder with the features of the test videos."""
    test_annotations: tuple[Path, ...] = ()
    """Files with the anomalous frame ranges of the test videos, as for vigil evaluate."""
    test_share: float | None = None
    """Instead of both: hold out this share of each class for testing, chosen anew for each seed.
    The annotations must then have frame ranges."""
    views: str = "center"
    """Views to train on."""
    test_views: str | None = None
    """Views to average the scores over; by default all views in the feature files."""
    only: tuple[str, ...] = ()
    """Names of the rows to train; others appear in the table if they were trained before."""
    cluster: str | None = None
    """Train on the nodes of a Ray cluster, each run by itself: HOST:PORT of its head, or auto: the
    cluster that this machine is part of, else this machine alone."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N; with --cluster, auto, cpu or cuda."""
    bootstrap: int = 1000
    """Number of resamples of videos and seeds for the 95 % intervals."""
    overwrite: bool = False
    """Replace runs that were trained with other settings."""
    memory_gib: float | None = None
    """Memory limit for features, as for vigil train."""
    note: tuple[str, ...] = ()
    """Sentences to print as warnings in table.html, such as what is missing."""
    logs: OmitArgPrefixes[LogOptions] = field(default_factory=LogOptions)


@dataclass(frozen=True)
class ReproduceOptions:
    """Reproduce a table on a published dataset: check, extract, train, evaluate, report."""

    name: Positional[str]
    """Name of the dataset, as listed by vigil dataset list."""
    videos: Path | None = None
    """Folder with all videos of the dataset."""
    features: Path | None = None
    """Instead of --videos: folder with the features of all videos of the dataset."""
    annotations: tuple[Path, ...] = ()
    """Official lists and annotations, with their official names; by default those in the folder."""
    out: Path = Path("runs/reproduction")
    """Folder for all output."""
    config: Path = Path("configs/table1.toml")
    """TOML file that lists the methods, or the name of one of vigil's."""
    only: tuple[str, ...] = ()
    """Names of the rows to train; by default all."""
    train_views: str = "center"
    """Views to train on."""
    views: str = "five"
    """Views to extract and to average the test scores over."""
    weights: str = "auto"
    """The backbone's weights, as for vigil extract."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    bootstrap: int = 1000
    """Number of resamples of videos and seeds for the 95 % intervals."""
    allow_missing: bool = False
    """Continue without videos that are missing or unreadable; the page lists them."""
    overwrite: bool = False
    """Replace features and runs that were made with other settings."""
    memory_gib: float | None = None
    """Memory limit for features in training, as for vigil train."""
    logs: OmitArgPrefixes[LogOptions] = field(default_factory=LogOptions)


@dataclass(frozen=True)
class ScoreOptions:
    """Label videos: score every segment, name the class, and write a report."""

    videos: Videos
    """Folders (searched with all subfolders), video files, folders of pictures, patterns with * or
    ?, text files with one path per line, or s3:// addresses."""
    out: Path
    """Folder for the results; the features are kept in its subfolder features."""
    checkpoint: Path | None = None
    """Folder of a run or of one of its checkpoints; features are extracted with its settings.
    Without it, the starter that ships with vigil looks for fights and road accidents."""
    weights: str | None = None
    """The backbone's weights file, if it has moved since the training, or a name of weights."""
    views: str = "center"
    """Views to average over; the paper uses five."""
    threshold: str = "auto"
    """Score that opens an event; auto: the calibrated one of the camera, else the one chosen on
    validation."""
    keep_share: float = 0.5
    """An event lasts while scores are at least this share of the threshold."""
    join_seconds: float = 1.0
    """Two events with at most so much time between them are one."""
    min_seconds: float = 1.0
    """Shorter events are dropped."""
    span: str = "auto"
    """Longer videos are scored in overlapping spans of this length. auto: the median length of the
    training videos; a number of seconds; or whole: no spans."""
    clock: str = "auto"
    """Time of day at which recordings start. auto: from names as recorders write them; creation:
    from containers; a template such as %d-%m-%Y_%H-%M-%S: from names; or none."""
    format: str = ",".join(DEFAULT_FORMATS)
    """Formats of the results, separated by commas: json (always written), csv, html, parquet, srt,
    vtt, edl, chapters, cvat, label-studio, coco."""
    clips: bool = False
    """Also write each event as an MP4 file that browsers play, with a sheet of pictures."""
    annotate: bool = False
    """Write each clip a second time, with class, score and time under its picture; implies
    --clips."""
    clip_margin: float = 5.0
    """Seconds before and after an event that belong to its clip."""
    static: Static | None = None
    """skip: do not compute clips in which nothing moves, as for vigil extract; compute: all clips.
    By default as the checkpoint was trained."""
    thumbnails: bool = True
    """Take a thumbnail of every second of the videos while their features are extracted, for the
    report; without them, also remove those of an earlier run."""
    overwrite: bool = False
    """Replace features made with other settings or from another version of a video."""
    which: Which = "best"
    """Which checkpoint to use: the best one on validation, or the last one."""
    cluster: str | None = None
    """Extract on the nodes of a Ray cluster: HOST:PORT of its head, or auto: the cluster that this
    machine is part of, else this machine alone."""
    fetch_gib: float = 20.0
    """Disk space for copies of videos from s3:// and other addresses, in OUT, in GiB. A copy is
    removed as soon as its video has features."""
    dry_run: bool = False
    """Report what would be done, without doing it."""
    compute: OmitArgPrefixes[ComputeOptions] = field(default_factory=ComputeOptions)
    logs: OmitArgPrefixes[LogOptions] = field(default_factory=LogOptions)


@dataclass(frozen=True)
class WatchOptions:
    """Score recordings and streams as they come; raise alarms."""

    out: Path
    """Folder for the results; the same one lets a restart continue."""
    sources: Annotated[Positional[tuple[str, ...]], arg(metavar="[FOLDER|ADDRESS...]")] = ()
    """Folders of recorders, whose subfolders are cameras, or streams: rtsp://HOST/PATH."""
    cameras: Path | None = None
    """TOML file with cameras and their settings (docs/live.md)."""
    checkpoint: Path | None = None
    """Folder of a run or of one of its checkpoints; without it, the starter that ships with vigil.
    """
    on_event: UseAppendAction[tuple[str, ...]] = ()
    """Where alarms go, besides events.jsonl: https://HOST/PATH, mqtt://HOST/PREFIX or 'exec:PROGRAM
    ARGUMENT ...'; may be repeated."""
    metrics: str | None = None
    """HOST:PORT for /metrics (Prometheus) and /healthz."""
    once: bool = False
    """Score everything that is complete now, then exit."""
    from_now: bool = False
    """Leave alone the files that are there when RESULTS is new."""
    retry_failed: bool = False
    """First try all recordings again that have failed, also those whose file is damaged."""
    when_late: WhenLate = "drop-oldest"
    """What to do with clips of streams for which there is no time: drop the oldest, compute every
    second, fourth, ... only, or keep all and fall behind; --cameras may say it of a camera."""
    settle_seconds: float = 5.0
    """A file counts as complete if it has not changed for so long; sooner if its writer has closed
    it."""
    camera: str | None = None
    """Which part of a path names the camera: folder (the top one), or a regular expression with one
    group; by default as calibrated, else folder."""
    threshold: str = "auto"
    """Score that opens an event, as for vigil score."""
    keep_days: float | None = None
    """Remove results that are older."""
    keep_gib: float | None = None
    """Remove the oldest results if all are larger."""
    keep_features: Literal["none", "events", "all"] = "none"
    """Features to keep after scoring: those of recordings with events, of all, or none."""
    min_free_gib: float = 1.0
    """With less free space on the disk of --out, no further file is scored until there is room."""
    report_videos: int = 1000
    """The report and tables show that many of the newest recordings with events, and of those
    without."""
    give_up_hours: float = 24.0
    """An alarm that could not be delivered for so long goes to dead_letters.jsonl."""
    weights: str | None = None
    """The backbone's weights file, if it has moved since the training, or a name of weights."""
    views: str = "center"
    """Views to average the scores over."""
    keep_share: float = 0.5
    """An event lasts while scores are at least this share of the threshold."""
    join_seconds: float = 1.0
    """Two events with at most so much time between them are one, also across two recordings."""
    min_seconds: float = 1.0
    """Shorter events are dropped."""
    span: str = "auto"
    """Longer videos are scored in overlapping spans of this length, as for vigil score."""
    clock: str = "auto"
    """Time of day at which recordings start, as for vigil score."""
    format: str = ",".join(DEFAULT_FORMATS)
    """Formats of the results, as for vigil score."""
    clips: bool = False
    """Also write each event as an MP4 file that browsers play, with a sheet of pictures."""
    annotate: bool = False
    """Write each clip a second time, with class, score and time under its picture; implies
    --clips."""
    clip_memory_mib: int = 64
    """Memory for the newest packets of each stream, of which clips of its events are made: at 4
    Mbit/s, 64 hold 2 minutes. 0: streams have no clips."""
    clip_margin: float = 5.0
    """Seconds before and after an event that belong to its clip."""
    static: Static | None = None
    """skip: do not compute clips in which nothing moves, as for vigil score."""
    thumbnails: bool = True
    """Take a thumbnail of every second of the recordings and streams, for the report."""
    which: Which = "best"
    """Which checkpoint to use: the best one on validation, or the last one."""
    compute: OmitArgPrefixes[ComputeOptions] = field(default_factory=ComputeOptions)
    logs: OmitArgPrefixes[LogOptions] = field(default_factory=LogOptions)


@dataclass(frozen=True)
class ExplainOptions:
    """Show why a moment of a video got its score."""

    video: Positional[str]
    """Video file, or folder of pictures."""
    out: Path
    """Folder for explain.html and its figures; the features are kept in its subfolder features."""
    checkpoint: Path | None = None
    """Folder of a run or of one of its checkpoints; without it, the starter that ships with
    vigil."""
    at: str | None = None
    """Moment to explain, in seconds or as h:mm:ss; by default the highest one of the highest event,
    or of the video if it has none."""
    class_name: str | None = None
    """Explain the logit of this class instead of the score."""
    features: Path | None = None
    """Folder of the features that the model was trained on, to name the nearest of these videos."""
    weights: str | None = None
    """The backbone's weights file, if it has moved since the training, or a name of weights."""
    views: str = "center"
    """Views to average the scores over."""
    threshold: str = "auto"
    """Score that opens an event, as for vigil score."""
    span: str = "auto"
    """How long videos are cut, as for vigil score."""
    overwrite: bool = False
    """Replace features made with other settings or from another version of the video."""
    which: Which = "best"
    """Which checkpoint to use: the best one on validation, or the last one."""
    compute: OmitArgPrefixes[ComputeOptions] = field(default_factory=ComputeOptions)
    logs: OmitArgPrefixes[LogOptions] = field(default_factory=LogOptions)


@dataclass(frozen=True)
class CalibrateOptions:
    """Set the thresholds that keep a rate of alarms, from ordinary footage of your own cameras."""

    run: Positional[Path]
    """Folder of a run or of one of its checkpoints; starter: the one that ships with vigil."""
    videos: Annotated[OneOrMore, arg(metavar="NORMAL_FOOTAGE...")]
    """Folder of unlabelled everyday footage, named and recorded like that to be scored, and not
    used in training; or whatever else vigil score accepts."""
    out: Path
    """Folder for the calibrated copy of the checkpoint, to be given to vigil score; the features
    are kept in its subfolder features."""
    annotations: tuple[Path, ...] = ()
    """Label files, such as verdicts exported from a report: videos that they give any class but
    Normal are left out."""
    alarms_per_day: float = 1.0
    """Alarms a day that each camera may give in ordinary times."""
    camera: str = "folder"
    """folder: the top folder of a video names its camera; or a regular expression with one group,
    searched in its path: '(cam[0-9]+)_'."""
    block_seconds: float = 300.0
    """Alarms within a block of this length count as one."""
    weights: str | None = None
    """The backbone's weights file, if it has moved since the training, or a name of weights."""
    span: str = "auto"
    """Longer videos are scored in spans of this length; give vigil score the same."""
    views: str = "center"
    """Views to average the scores over; score with the same."""
    overwrite: bool = False
    """Replace features made with other settings or from another version of a video."""
    which: Which = "best"
    """Which checkpoint to use: the best one on validation, or the last one."""
    compute: OmitArgPrefixes[ComputeOptions] = field(default_factory=ComputeOptions)
    logs: OmitArgPrefixes[LogOptions] = field(default_factory=LogOptions)


@dataclass(frozen=True)
class ReportOptions:
    """Write the report of a results folder again, or other formats of its results."""

    results: Positional[Path]
    """Folder written by vigil score."""
    format: str = "html"
    """Formats to write, separated by commas: csv, html, parquet, srt, vtt, edl, chapters, cvat,
    label-studio, coco."""
    clips: bool = False
    """Also write each event as an MP4 file that browsers play, with a sheet of pictures."""
    annotate: bool = False
    """Write each clip a second time, with class, score and time under its picture; implies
    --clips."""
    clip_margin: float = 5.0
    """Seconds before and after an event that belong to its clip."""
    annotations: tuple[Path, ...] = ()
    """Label files, as for vigil evaluate; the timelines then show the annotated frames, too."""
    logs: OmitArgPrefixes[LogOptions] = field(default_factory=LogOptions)


@dataclass(frozen=True)
class ServeOptions:
    """Serve results as a site where people review events."""

    results: Annotated[OneOrMore, arg(metavar="RESULTS...")]
    """Folders written by vigil score."""
    host: str = "127.0.0.1"
    """Address to listen at; others than this machine need one such as 0.0.0.0, and a token. It is
    that in the environment variable VIGIL_TOKEN, in --token-file, or made and printed at start."""
    port: int = 8000
    """Port to listen at; 0: any that is free."""
    token_file: Path | None = None
    """File with the token that everybody needs, on this machine, too."""
    allow_hosts: tuple[str, ...] = ()
    """Further names by which browsers may call this site, such as that of a proxy."""
    verdicts: Path | None = None
    """Folder for the databases of verdicts; by default each lies in its RESULTS."""
    annotations: tuple[Path, ...] = ()
    """Label files, as for vigil evaluate; the timelines then show the annotated frames, too."""
    logs: OmitArgPrefixes[LogOptions] = field(default_factory=LogOptions)


@dataclass(frozen=True)
class FeaturesVerifyOptions:
    """Check every byte of feature files; exit with 3 if any has a fault, with 4 if all have."""

    features: Positional[Path]
    """Folder of feature files, or a single file."""
    videos: tuple[str, ...] = ()
    """Also check that each of these videos has features and has not changed since: folders, video
    files, patterns or lists, as for vigil extract."""
    repair: bool = False
    """Extract damaged, missing or changed videos again, with the settings of the intact files."""
    weights: str | None = None
    """The backbone's weights for --repair, if their file has moved since the extraction."""
    compute: OmitArgPrefixes[ComputeOptions] = field(default_factory=ComputeOptions)
    logs: OmitArgPrefixes[LogOptions] = field(default_factory=LogOptions)


@dataclass(frozen=True)
class FeaturesShowOptions:
    """Show what feature files contain and how they were made."""

    features: Positional[Path]
    """Folder of feature files, or a single file."""
    logs: OmitArgPrefixes[LogOptions] = field(default_factory=LogOptions)


@dataclass(frozen=True)
class FeaturesImportOptions:
    """Import features from another program; docs/exchange.md lists the supported ones."""

    sources: Annotated[OneOrMore, arg(metavar="SOURCES...")]
    """Folders with .npy, .npz, .txt or .h5 files, or single .npy, .npz or .h5 files; one or ten
    files per video."""
    out: Path
    """Folder for the feature files, which keep the sources' relative paths."""
    backbone: str = "unknown"
    """Name to record for the network that computed the features."""
    crops: CropOrder | None = None
    """Order of the crops: rtfm (also used by MGFN), deepmil (also XD-Violence, VadCLIP and the
    features UR-DMU trains on), oversample (written by UR-DMU's own extraction and
    I3D_Feature_Extraction_resnet), vigil (an export with one file per crop), or unnamed (stored as
    crop_0 to crop_9)."""
    crops_first: bool = False
    """Read the first of three axes as the crops, as UR-DMU's extraction writes them."""
    frames_per_snippet: int | None = None
    """Number of frames behind each row, if the format does not fix it."""
    pooled: bool = False
    """Treat the rows as segments; for .npz and .txt files this is always the case."""
    segments: int = 32
    """Number of segments, the equal stretches into which each video is divided."""
    num_frames: Path | None = None
    """CSV with one line of video,frames or video,frames,fps per video; needed to evaluate or score
    features whose rows are segments."""
    fps: float = 30.0
    """Frames per second, for times in seconds; no format records it."""
    list_file: Path | None = None
    """Import only the files in this list, one path per line; their folders are ignored."""
    follow_links: bool = False
    """Also use files in a folder that are links to files outside it."""
    overwrite: bool = False
    """Replace existing features of another origin."""
    logs: OmitArgPrefixes[LogOptions] = field(default_factory=LogOptions)


@dataclass(frozen=True)
class FeaturesExportOptions:
    """Export features as .npy files and a list, as RTFM, MGFN and UR-DMU read them."""

    features: Positional[Path]
    """Folder of feature files, extracted with --keep-clips."""
    out: Path
    """Folder for the files, their list, the frame-level truth and the frame counts."""
    annotations: tuple[Path, ...] = ()
    """Label files, as for vigil train and evaluate; only labelled videos are exported, anomalous
    ones first. By default the folder of each video names its class."""
    crops: CropOrder | None = None
    """Order of the crops: by default rtfm, or vigil (center first) with --file-per-crop. If not all
    ten or five crops are stored, only the center is exported."""
    file_per_crop: bool = False
    """Write NAME__0.npy, NAME__1.npy and so on, as UR-DMU, DeepMIL and VadCLIP read them."""
    frames_per_snippet: int = 16
    """Number of frames behind each row; the tests of RTFM and UR-DMU require 16."""
    pooled: bool = False
    """Write segments instead of clips, which is enough for training."""
    logs: OmitArgPrefixes[LogOptions] = field(default_factory=LogOptions)


@dataclass(frozen=True)
class DatasetListOptions:
    """List the published datasets whose official splits are known."""

    logs: OmitArgPrefixes[LogOptions] = field(default_factory=LogOptions)


@dataclass(frozen=True)
class DatasetCheckOptions:
    """Check that a published dataset is complete: videos, labels, frames; exit with 3 if not."""

    name: Positional[str]
    """Name of a dataset, as listed by vigil dataset list."""
    root: Positional[Path]
    """Folder with all its videos, as files or folders of pictures, or with their features."""
    features: bool = False
    """ROOT holds feature files written by vigil extract instead of videos."""
    annotations: tuple[Path, ...] = ()
    """Official lists and annotations, with their official names; by default those in ROOT."""
    write: Path | None = None
    """Folder to write problems.csv to, and train.csv and test.csv, the label files for vigil train
    and evaluate."""
    extensions: str = VIDEO_EXTENSIONS
    """Extensions of the files that are treated as videos, separated by commas."""
    follow_links: bool = False
    """Also use videos that are links to files outside ROOT."""
    logs: OmitArgPrefixes[LogOptions] = field(default_factory=LogOptions)


@dataclass(frozen=True)
class WeightsListOptions:
    """List the backbones, their published weights, and whether these are on this machine."""

    logs: OmitArgPrefixes[LogOptions] = field(default_factory=LogOptions)


@dataclass(frozen=True)
class WeightsFetchOptions:
    """Download a backbone's published weights."""

    backbone: Positional[str]
    """Backbone listed by vigil weights list, or several joined by plus signs; or only the name of
    weights of i3d."""
    name: Positional[str] = "auto"
    """Name of the weights; auto: the best within reach."""
    logs: OmitArgPrefixes[LogOptions] = field(default_factory=LogOptions)


@dataclass(frozen=True)
class WeightsVerifyOptions:
    """Check that a weights file loads without running code and is complete up to an endpoint."""

    backbone: Positional[str]
    """Name of a backbone, as listed by vigil weights list."""
    weights: Positional[str] = "auto"
    """Weights file, or the name of published weights; by default the best ones in the cache."""
    endpoint: str | None = None
    """Check up to this layer only."""
    logs: OmitArgPrefixes[LogOptions] = field(default_factory=LogOptions)


@dataclass(frozen=True)
class DemoOptions:
    """Generate videos, then extract, train, evaluate and score: the whole program in minutes."""

    out: Path = Path("runs/demo")
    """Folder for all output of the demo."""
    weights: str = "auto"
    """The backbone's weights; auto falls back to random weights, with a warning."""
    seed: int = 0
    """Seed for the videos and the training."""
    logs: OmitArgPrefixes[LogOptions] = field(default_factory=LogOptions)


@dataclass(frozen=True)
class DoctorOptions:
    """Check what this machine lacks, and say how to mend it."""

    sources: Annotated[Positional[tuple[str, ...]], arg(metavar="[SOURCE...]")] = ()
    """Also check these: a video, a folder of recordings, or a camera (rtsp://HOST/PATH,
    /dev/video0). Write the password of a camera as '${NAME}', for the variable NAME."""
    checkpoint: Path | None = None
    """Folder of a run or of one of its checkpoints; without it, the starter that ships with vigil.
    """
    out: Path | None = None
    """Also check the folder that is to get the results."""
    device: str = "auto"
    """Device that is to compute, as for vigil score."""
    speed: bool = True
    """Measure how many cameras the network keeps up with, which takes up to a minute."""
    format: Literal["table", "json"] = "table"
    """json: one object, for programs."""
    source_seconds: float = 20.0
    """Time limit for each source."""
    which: Which = "best"
    """Which checkpoint to use: the best one on validation, or the last one."""
    logs: OmitArgPrefixes[LogOptions] = field(default_factory=LogOptions)


@dataclass(frozen=True)
class CompletionOptions:
    """Print the script with which a shell completes commands and flags."""

    shell: Positional[Literal["bash", "zsh", "fish"]]
    """The shell."""
    logs: OmitArgPrefixes[LogOptions] = field(default_factory=LogOptions)
