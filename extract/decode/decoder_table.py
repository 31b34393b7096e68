"""The table of decoders: what each one opens, and when it is used.

A new decoder is a module beside this one with a `Decoder`, a row
here, and its words in the docs. Importing this module loads no decoder: each is loaded when it
opens its first video.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, cast

from vigil.extract.errors import UserError

if TYPE_CHECKING:
    from vigil.extract.decode.decoder import Decoder, VideoInfo

    Opener = Callable[[Path, VideoInfo, int, int, str], Decoder]

AUTO = "auto"


@dataclass(frozen=True)
class DecoderRow:
    """A decoder. Its openers are classes or functions beside this module, as MODULE:NAME."""

    name: str
    """As requested on the command line and recorded in feature files."""
    opener: str
    """Opens a video file."""
    opener_for_auto: str | None = None
    """The same for `auto`, perhaps on a condition; None: used only on request."""
    opener_for_folders: str | None = None
    """Opens a folder of pictures; None: it cannot."""
    splits: bool = False
    """Whether a long video may be split into parts: `PartDecoder` must yield the same frames."""

    def load(self) -> "Opener":
        """Return the opener of video files.

        Raises:
            UserError: the decoder is not installed, or cannot be imported.
        """
        module, _, name = self.opener.partition(":")
        try:
            opener = getattr(import_module(f"vigil.extract.decode.{module}"), name)
        except (ImportError, OSError) as error:
            raise UserError(
                f"the decoder {self.name} cannot be loaded ({error}): install it, or use another"
            ) from error
        return cast("Opener", opener)

    def open(
        self, path: Path, info: "VideoInfo", width: int, height: int, deinterlace: str = "auto"
    ) -> "Decoder":
        """Open a video, to decode its frames at the given size in pixels.

        ``deinterlace`` is auto (frames that are flagged as interlaced), on (all) or off.

        Raises:
            UserError: the decoder cannot be loaded.
            VideoError: it must not read the video, or cannot open it.
        """
        return self.load()(path, info, width, height, deinterlace)


# In the order in which `auto` tries them; the last of those must be the most robust.
DECODERS = (
    DecoderRow(
        "decord",
        opener="decoder_decord:DecordDecoder",
        opener_for_auto="decoder_decord:open_if_short",
    ),
    DecoderRow(
        "pyav",
        opener="decoder_av:AvDecoder",
        opener_for_auto="decoder_av:AvDecoder",
        opener_for_folders="decoder_pictures:PictureDecoder",
        splits=True,
    ),
    DecoderRow("nvdec", opener="decoder_av:NvdecDecoder"),
)
DECODER_NAMES = (AUTO, *(row.name for row in DECODERS))


def check_decoder(name: str) -> None:
    """Refuse unknown decoders.

    Raises:
        UserError: the decoder is unknown; names those that exist.
    """
    if name not in DECODER_NAMES:
        raise UserError(f"unknown decoder {name!r}: use one of {', '.join(DECODER_NAMES)}")


def for_file(name: str) -> tuple[DecoderRow, ...]:
    """Return the decoders to try on a video file, in order; several only for `auto`."""
    if name == AUTO:
        return tuple(
            replace(row, opener=row.opener_for_auto) for row in DECODERS if row.opener_for_auto
        )
    return tuple(row for row in DECODERS if row.name == name)


def load_decoders(name: str) -> None:
    """Load the decoders that a run with this choice may use, so that none is missed in silence.

    Raises:
        UserError: one cannot be loaded.
    """
    for row in for_file(name):
        row.load()


def for_folder() -> DecoderRow:
    """Return the decoder of folders of pictures, whichever one is requested."""
    return next(
        replace(row, opener=row.opener_for_folders) for row in DECODERS if row.opener_for_folders
    )


def last_resort(name: str) -> str:
    """Return the decoder with which to read a video again after a worker died or hung."""
    return for_file(name)[-1].name
