"""Whether a node has the software that the command has, on which results depend."""

import hashlib
from pathlib import Path

from vigil.extract import versions

PARTS = ("extract", "data", "model", "pipeline")


def own_versions() -> dict[str, str]:
    """The versions of what results depend on, and a digest of our own code.

    Of Python the last number is left out; Ray sees to the others.
    """
    code, root = hashlib.sha256(), Path(versions.__file__).parent.parent
    for part in PARTS:
        for path in sorted((root / part).rglob("*.py")):
            code.update(path.read_bytes())
    known = versions.installed_versions() | {"the code of vigil": code.hexdigest()[:12]}
    return {name: version for name, version in known.items() if name != "python"}


def differences(theirs: dict[str, str], ours: dict[str, str]) -> str:
    """What differs between a node and this machine, for messages; empty if nothing does."""
    names = sorted(theirs.keys() | ours.keys())
    pairs = [(name, theirs.get(name, "none"), ours.get(name, "none")) for name in names]
    return ", ".join(f"{name} {there}, here {here}" for name, there, here in pairs if there != here)
