"""A minimal corpus and a minimal run, for tests that do not depend on their content."""

from pathlib import Path

from bench import standin
from bench.processes import cheap_vigil, running
from bench.videos import draw_video

CONTAINERS = (".mp4", ".mkv", ".mov", ".ts", ".flv")
CLASSES = ("Normal", "Fighting")
"""Training uses the folder of a video as its class."""
WIDTH, HEIGHT, SHORTEST_FRAMES = 128, 96, 90
RECIPE = "--lstm-size 8 --attention-size 8 --time-pool mean --num-anomalous 3 --num-normal 3"


def draw_corpus(folder: Path) -> None:
    """Write short videos of two classes in several containers."""
    for seed, class_name in enumerate(CLASSES):
        (folder / class_name).mkdir(parents=True)
        for place, suffix in enumerate(CONTAINERS):
            path = folder / class_name / f"short{suffix}"
            draw_video(path, WIDTH, HEIGHT, SHORTEST_FRAMES + 30 * place + seed, seed=seed)


def train_tiny(features: Path, run: Path, epochs: int) -> list[str]:
    """The arguments of `python` that train on features of a corpus, or resume the training."""
    how = "--resume", "--epochs", epochs, *RECIPE.split()
    return cheap_vigil("train", features, "--out", run, *how)


def make_run(folder: Path, backbone: str = standin.INSTANT) -> Path:
    """Generate a corpus in a folder, extract it, train for two epochs; return the run's folder."""
    videos, features, run = (folder / name for name in ("corpus", "features", "run"))
    draw_corpus(videos)
    with running(cheap_vigil("extract", videos, "--out", features, backbone=backbone)) as program:
        program.require_success()
    with running(train_tiny(features, run, epochs=2)) as program:
        program.require_success()
    return run
