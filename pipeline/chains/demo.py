"""`vigil demo`: run the whole program on generated videos, and evaluate it on unseen ones.

The starter that ships with vigil scores a few of them first; then a model is trained and evaluated.
These are the commands that a user would run, and each of them is printed.
"""

import json
import logging
import time
from dataclasses import replace
from pathlib import Path

from vigil.data.synthetic.corpus import ANNOTATION_FILE, SyntheticConfig, generate
from vigil.extract.networks.backbones import KINETICS, find_backbone
from vigil.extract.networks.download import WeightsError, cached_weights
from vigil.extract.networks.named_weights import AUTO, find_weights, is_random
from vigil.model.config import LossConfig, ModelConfig
from vigil.pipeline.chains.steps import run_step
from vigil.pipeline.logs import download_progress
from vigil.pipeline.options import (
    DemoOptions,
    EvaluateOptions,
    ExtractOptions,
    ScoreOptions,
    TrainOptions,
)
from vigil.pipeline.recipe import Recipe, TrainingConfig
from vigil.pipeline.run_folder import EVALUATION_FOLDER, METRICS_NAME
from vigil.pipeline.scoring.report.page import REPORT_NAME

BACKBONE = "i3d"
# Without training the last layers see nothing. The first ones see motion and light, which make up
# the generated anomalies, at a quarter of the network's cost; also, a file may lack later layers.
ENDPOINT, SHALLOW_ENDPOINT = "AvgPool", "MaxPool3d_2a_3x3"
# Similar to configs/small.toml, for even fewer videos.
RECIPE = Recipe(
    ModelConfig(lstm_size=64, attention_size=64, time_pool="mean", standardize=True, dropout=0.1),
    LossConfig(detection_weight=0.7),
    TrainingConfig(epochs=60, learning_rate=1e-3, save_epochs=60),
)

TRAIN = SyntheticConfig(num_normal=30, num_per_anomaly=15, min_frames=200, max_frames=300)
TEST = replace(TRAIN, num_normal=12, num_per_anomaly=6)
TEST_SEED_OFFSET = 1_000_000
STARTER_STEP = 8  # the starter scores every eighth test video

VERDICT = ("frame_auc", "video_accuracy", "video_auc", "maa", "frame_ap")

log = logging.getLogger(__name__)


def run_demo(options: DemoOptions) -> int:
    """Generate videos, extract, train, score and evaluate; print a table and the report's path.

    Returns:
        The exit code of the first command that fails, else 0.
    """
    started = time.monotonic()
    train, test = options.out / "videos" / "train", options.out / "videos" / "test"
    features, run, results = (options.out / name for name in ("features", "run", "results"))
    weights = _available(options.weights)
    is_whole = weights in {source.name for source in find_backbone(BACKBONE).sources}
    log.info("generating videos in %s", options.out / "videos")
    generate(replace(TRAIN, seed=options.seed), train)
    generate(replace(TEST, seed=options.seed + TEST_SEED_OFFSET), test)
    few = tuple(map(str, sorted(test.rglob("*.mp4"))[::STARTER_STEP]))
    starter = [ScoreOptions(videos=few, out=options.out / "starter", overwrite=True)]
    if weights != KINETICS:
        log.warning("the starter that ships with vigil is not shown: it needs %s", KINETICS)
        starter = []
    for step in (
        *starter,
        ExtractOptions(
            videos=(str(train),),
            out=features,
            backbone=BACKBONE,
            weights=weights,
            endpoint=ENDPOINT if is_whole else SHALLOW_ENDPOINT,
            overwrite=True,
        ),
        TrainOptions(
            features=features,
            out=run,
            annotations=(train / ANNOTATION_FILE,),
            seed=options.seed,
            overwrite=True,
            recipe=RECIPE,
        ),
        ScoreOptions(videos=(str(test),), checkpoint=run, out=results, overwrite=True),
        EvaluateOptions(run, results / "features", annotations=(test / ANNOTATION_FILE,)),
    ):
        if exit_code := run_step(step, options.logs):
            return exit_code
    _print_verdict(run / EVALUATION_FOLDER / METRICS_NAME, weights)
    print(f"report {results / REPORT_NAME}")
    print(f"seconds {time.monotonic() - started:.0f}")
    return 0


def _available(weights: str) -> str:
    """The requested weights; for ``auto`` those of the starter, others within reach, or random."""
    if weights != AUTO:
        return weights
    sources = sorted(find_backbone(BACKBONE).sources, key=lambda source: source.name != KINETICS)
    try:
        with download_progress() as progress:
            path = find_weights(AUTO, sources, progress)
    except WeightsError as error:
        log.warning("%s", error)
        log.warning("the demo continues with RANDOM weights")
        return "random"
    return next(source.name for source in sources if cached_weights(source) == path)


def _print_verdict(metrics: Path, weights: str) -> None:
    measures = json.loads(metrics.read_bytes())["measures"]
    for name in VERDICT:
        print(f"{name} {measures[name]['value']:.4f}")
    print(f"weights {weights}" + (" (untrained)" if is_random(weights) else ""))
