"""The versions of the software that results may depend on."""

import platform
from importlib.metadata import PackageNotFoundError, version

DISTRIBUTIONS = ("vigil-video", "torch", "torchvision", "numpy", "h5py", "decord", "av")


def installed_versions() -> dict[str, str]:
    """Return the versions of Python and of the installed distributions that results depend on."""
    versions = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
