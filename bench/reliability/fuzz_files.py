"""Damaged feature files, checkpoints and annotations, read as vigil reads them."""

import shutil
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from random import Random

from bench.reliability.judge import GOOD, WHOLE, judge
from bench.reliability.mutations import mutate
from bench.reliability.tiny import make_run
from bench.table import markdown
from vigil.extract.store import list_features

BATCH = 100
ANNOTATIONS = (
    "Abuse/Abuse001_x264.mp4\nNormal/Normal Videos 002.mp4\n",
    "Abuse028_x264.mp4  Abuse  165  240  -1  -1\nNormal_1.mp4  Normal  -1  -1  -1  -1\n",
    'video,class,start_frame,end_frame\na.mp4,Fighting,3,9\n"b, c.mp4",Normal,,\n',
)


def fuzz_files(runs: int, seed: int, keep: Path) -> tuple[str, list[str]]:
    """Read damaged files of each kind; return a table of the outcomes, and the wrong outcomes.

    Args:
        runs: number of files of each kind.
        seed: of the damage.
        keep: folder for files with a wrong outcome.
    """
    verdicts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    problems = []
    with tempfile.TemporaryDirectory(prefix="vigil-fuzz-") as name:
        folder = Path(name)
        run = make_run(folder)
        features = next(iter(list_features(folder / "features").values()))
        wholes = {"feature files": features, "checkpoints": run / "last", "annotations": None}
        for kind, whole in wholes.items():
            for start in range(0, runs, BATCH):
                work = folder / "work"
                work.mkdir()
                _copy(whole, work / WHOLE)
                (work / "files").mkdir()
                for number in range(start, min(start + BATCH, runs)):
                    _write(whole, work / "files" / f"{number:05}", number, seed)
                for mutant, verdict in judge(kind, work / "files").items():
                    verdicts[kind][verdict] += 1
                    if verdict not in GOOD:
                        problems.append(f"{kind}, number {mutant}: {verdict}")
                        _copy(work / "files" / mutant, keep / kind / mutant)
                shutil.rmtree(work)
    rows = [
        (kind, verdict, str(number))
        for kind, counts in verdicts.items()
        for verdict, number in counts.most_common()
    ]
    return markdown(("files", "outcome", ">times"), rows), problems


def _copy(source: Path | None, target: Path) -> None:
    if source is None:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copy(source, target)


def _write(whole: Path | None, path: Path, number: int, seed: int) -> None:
    """Write a damaged file, or a folder with one."""
    random = Random(f"{seed} {number}")
    if whole is None:
        content = random.choice(ANNOTATIONS).encode()
    elif whole.is_dir():
        shutil.copytree(whole, path)
        path = random.choice(sorted(path.iterdir()))
        content = path.read_bytes()
    else:
        content = whole.read_bytes()
    path.write_bytes(mutate(content, content, number, random).content)
