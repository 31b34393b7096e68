"""`make chaos`: kill runs at random moments, and compare the files that are left in the end.

Extraction and training run again and again on the files of the run before them, and are killed,
starved or hindered. Files are damaged in between. In the end all files must equal those of
undisturbed runs, bit for bit, and there must be no others.
"""

import signal
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random

import tyro

from bench.reliability.chaos_extraction import Extraction
from bench.reliability.chaos_training import Training
from bench.reliability.disks import small_disk
from bench.reliability.faults import EXTRACTION_KILLS, HINDRANCES, TRAINING_KILL, Tally
from bench.reliability.tiny import HEIGHT, WIDTH, draw_corpus
from bench.videos import draw_video
from vigil.extract.errors import UserError

TRAINING_SHARE = 0.2
HINDRANCE_SHARE = 0.2
LONG_FRAMES = 2112
"""With a clip every 4 frames, the 512 clips that a video needs to be read in parts."""


@dataclass(frozen=True)
class Options:
    """Kill extraction and training at random moments; compare their files with undisturbed runs.

    The exit code is 1 if there are differences.
    """

    runs: int = 100
    """Number of kills."""
    seed: int = 0
    """Seed that decides which faults hit which run and which files."""
    short: bool = False
    """Leave out the long video and the training."""


def main(options: Options) -> int:
    """Print a table of faults and a line of results; return 0 if there are no problems."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background processes ignore it
    tally = Tally()
    decoders = ("pyav",) if options.short else ("auto", "pyav")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vigil-chaos-")))
        (folder / "tmp").mkdir()
        draw_videos(folder / "videos", with_long=not options.short)
        disk = stack.enter_context(small_disk(folder / "disk"))
        if disk is None:
            say("cannot mount a small disk here: a full disk is not tested")
        # After a worker's death, PyAV decodes its video; those features differ in the last bits.
        extraction = Extraction(folder, disk, tally, decoders)
        training = None if options.short else Training(folder, extraction.reference, tally)
        before = temporary_files(folder / "tmp")
        for number in range(options.runs):
            _disturb(Random(f"{options.seed} {number}"), extraction, training)
            say(f"{number + 1} kills: {tally.summary()}")
        extraction.finish()
        if training is not None:
            training.finish()
        tally.leftovers += map(str, temporary_files(folder / "tmp") - before)
    print(tally.table())
    print(*tally.problems(), f"{options.runs} kills, {tally.summary()}", sep="\n")
    return 1 if tally.problems() else 0


def _disturb(random: Random, extraction: Extraction, training: Training | None) -> None:
    """Kill one run, possibly after hindering another one."""
    if training is not None and random.random() < TRAINING_SHARE:
        training.disturb(TRAINING_KILL, random)
        return
    if random.random() < HINDRANCE_SHARE:
        extraction.disturb(random.choice(HINDRANCES), random)
    extraction.disturb(random.choice(EXTRACTION_KILLS), random)


def draw_videos(folder: Path, with_long: bool) -> None:
    """Write a corpus, a video that is read in parts, a damaged one, and a file without a video."""
    draw_corpus(folder)
    if with_long:
        draw_video(folder / "Normal" / "long.mp4", WIDTH, HEIGHT, LONG_FRAMES)
    damaged = bytearray((folder / "Normal" / "short.mp4").read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    (folder / "Normal" / "damaged.mp4").write_bytes(damaged)
    (folder / "Normal" / "broken.mp4").write_bytes(bytes(1000))


def temporary_files(folder: Path) -> set[Path]:
    """The contents of a folder for temporary files, and of shared memory."""
    return {*folder.iterdir(), *Path("/dev/shm").iterdir()}


def say(text: str) -> None:
    """Print progress to standard error."""
    print(text, file=sys.stderr)


if __name__ == "__main__":
    try:
        sys.exit(main(tyro.cli(Options, prog="python -m bench.reliability.chaos")))
    except UserError as error:
        sys.exit(f"error: {error}")
