"""The versions of the programs that a result may depend on."""

import platform
from importlib.metadata import PackageNotFoundError, version

DISTRIBUTIONS = ("vigil-video", "torch", "torchvision", "numpy", "h5py", "decord", "av")


def installed_versions() -> dict[str, str]:
    """The version of Python and of each installed distribution that results depend on."""
    versions = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
