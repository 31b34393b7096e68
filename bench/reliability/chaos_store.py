"""A store of features that is disturbed, and its expected contents."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from random import Random

from bench.reliability.compare import feature_content
from bench.reliability.faults import Tally
from vigil.extract.files import LOCK_NAME, PARTIAL_SUFFIX
from vigil.extract.store import SUFFIX, feature_path, list_features
from vigil.pipeline.failures import FAILURES_NAME

MAX_SPOILED = 3
LEFTOVER_SHARE = 0.3


class DisturbedStore:
    """Feature files, each of which must equal one written by an undisturbed run."""

    def __init__(self, folder: Path, references: Sequence[Path], tally: Tally) -> None:
        """Compare a folder, which need not exist yet, with stores of the same videos."""
        self.folder, self._reference, self._tally = folder, references[0], tally
        self._expected = {
            name: [feature_content(feature_path(store, name)) for store in references]
            for name in list_features(references[0])
        }
        self._spoiled: dict[str, bytes] = {}
        """Name of a video -> contents of its feature file after damage."""

    def whole(self) -> set[str]:
        """Names of the videos whose files exist and have not been damaged."""
        return {name for name in self._expected if self._path(name).exists()} - set(self._spoiled)

    def share_missing(self) -> float:
        """Share of the videos, 0..1, that must still be extracted."""
        return 1 - len(self.whole()) / len(self._expected)

    def spoil(self, random: Random) -> None:
        """Damage or remove files, so that something is left to do in any case."""
        whole = sorted(self.whole())
        for name in random.sample(whole, min(random.randint(0, MAX_SPOILED), len(whole))):
            self._spoiled[name] = damage(self._path(name), random)
        if len(whole) == len(self._expected):
            for name in random.sample(whole, random.randint(1, len(whole))):
                self._path(name).unlink()
        if random.random() < LEFTOVER_SHARE and self.folder.is_dir():
            half_written = f".{random.getrandbits(64):016x}{PARTIAL_SUFFIX}"
            (self.folder / half_written).write_bytes(random.randbytes(1000))

    def check(self, whole: set[str], is_complete: bool) -> None:
        """Check that files are as expected or as they were damaged; the tally records the others.

        Args:
            whole: names of the videos whose files must exist.
            is_complete: every file must exist, and none may still be damaged.
        """
        for name in self._expected:
            path = self._path(name)
            if not path.exists():
                self._spoiled.pop(name, None)
                if is_complete or name in whole:
                    self._tally.lost.append(name)
                continue
            is_spoiled = path.read_bytes() == self._spoiled.get(name)
            if not is_spoiled:
                self._spoiled.pop(name, None)
            if (is_spoiled and is_complete) or not (is_spoiled or self._is_as_expected(name)):
                self._tally.differing.append(name)

    def check_end(self) -> None:
        """Check that all files exist, and no others; the tally records any difference."""
        self.check(set(), is_complete=True)
        found, expected = (files_below(store) for store in (self.folder, self._reference))
        self._tally.leftovers += sorted(found - expected)
        self._tally.lost += sorted(
            expected - found - {f"{name}{SUFFIX}" for name in self._expected}
        )
        failures = [store / FAILURES_NAME for store in (self.folder, self._reference)]
        if len({path.read_text() for path in failures if path.exists()}) > 1:
            self._tally.differing.append(FAILURES_NAME)

    def _path(self, name: str) -> Path:
        return feature_path(self.folder, name)

    def _is_as_expected(self, name: str) -> bool:
        with suppress(OSError):
            return feature_content(self._path(name)) in self._expected[name]
        return False


def damage(path: Path, random: Random) -> bytes:
    """Flip a bit of a file, or cut off its end; return its new content."""
    content = bytearray(path.read_bytes())
    place = random.randrange(len(content))
    if random.random() < 0.5:
        content[place] ^= 1 << random.randrange(8)
    else:
        del content[place:]
    path.write_bytes(content)
    return bytes(content)


def files_below(folder: Path) -> set[str]:
    """Relative paths of the files below a folder, except locks."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != LOCK_NAME]
    return {str(path.relative_to(folder)) for path in paths}
