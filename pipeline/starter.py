"""The detector that ships with vigil: a checkpoint in the package, for those without a run.

docs/starter.md says what it was trained on, what to expect of it, and how it is made.
"""

from collections.abc import Sequence
from pathlib import Path

from vigil.pipeline.text_files import read_json

STARTER = Path(__file__).with_name("starter_checkpoint")
NAME = Path("starter")


def checkpoint_folder(given: Path | None) -> Path:
    """The folder given as a checkpoint; the starter's for None, and for its name if none has it."""
    return STARTER if given is None or (given == NAME and not given.exists()) else given


def is_starter(model_digest: str) -> bool:
    """Whether a checkpoint has the starter's weights, as its calibrated copies have."""
    files = read_json(STARTER / "config.json")["file_digests"]
    return model_digest in files.values()


def describe_starter(class_names: Sequence[str]) -> str:
    """A sentence about what the starter looks for; the normal class is the first."""
    anomalies = " and ".join(class_names[1:])
    return (
        f"Scored with the starter that ships with vigil: it looks for {anomalies} and nothing "
        "else, and was trained on few scenes (docs/starter.md)."
    )
