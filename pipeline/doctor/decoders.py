"""What reads videos, and writes clips of events."""

from collections.abc import Iterator

import av
from av.codec import Codec

from vigil.extract.decode.decoder_table import DECODERS
from vigil.extract.decode.excerpt_tracks import require_encoder
from vigil.extract.errors import UserError
from vigil.extract.versions import installed_versions
from vigil.pipeline.doctor.finding import OK, PROBLEM, WARNING, Finding

CODECS = ("h264", "hevc", "av1", "mjpeg", "mpeg4")
"""What cameras and recorders write."""


def check_decoders() -> Iterator[Finding]:
    """Yield whether decoders load, and what they can read and write."""
    versions = installed_versions()
    for row in DECODERS:
        if row.opener_for_auto is None:
            continue
        package = {"pyav": "av"}.get(row.name, row.name)
        try:
            row.load()
        except UserError as error:
            remedy = f"pip install --force-reinstall --no-deps {package}"
            yield Finding(f"decoder {row.name}", PROBLEM, str(error), remedy)
            continue
        ffmpeg = f", FFmpeg {av.ffmpeg_version_info}" if row.name == "pyav" else ""
        yield Finding(f"decoder {row.name}", OK, f"{versions.get(package, '?')}{ffmpeg}")
    missing = [name for name in CODECS if not _has_codec(name)]
    if missing:
        found = f"PyAV's FFmpeg cannot read {', '.join(missing)}"
        yield Finding("codecs", WARNING, found, "pip install --force-reinstall --no-deps av")
    else:
        yield Finding("codecs", OK, ", ".join(CODECS))
    try:
        require_encoder()
        yield Finding("clips of events", OK, "can be written")
    except UserError as error:
        yield Finding("clips of events", WARNING, str(error), "leave out --clips")


def _has_codec(name: str) -> bool:
    try:
        Codec(name, "r")
    except ValueError:
        return False
    return True
