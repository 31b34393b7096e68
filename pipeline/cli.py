"""The command line: its entry, and the exit codes and messages for errors.

Exit codes: 0 success · 1 an unexpected error · 2 wrong usage, or no input · 3 some videos failed ·
4 every video failed · 130 interrupted or terminated. Finished work is kept in every case.
"""

import errno
import io
import logging
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from types import FrameType
from typing import Any, NoReturn

from vigil.extract.errors import UserError
from vigil.pipeline import options
from vigil.pipeline.arguments import parse
from vigil.pipeline.commands import find_command
from vigil.pipeline.logs import set_up_logging
from vigil.pipeline.option_checks import check_options

log = logging.getLogger("vigil.pipeline.cli")  # __name__ may be __main__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; errors become one line on standard error."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    set_up_logging(options.LogOptions())
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # print paths byte for byte
    earlier = signal.signal(signal.SIGTERM, _terminate)
    try:
        if arguments == ["--version"]:
            print("vigil", _version())
            return 0
        chosen = parse(arguments)
        set_up_logging(chosen.logs)
        exit_code = run(chosen)
        sys.stdout.flush()  # raises BrokenPipeError here, where it can be handled
        return exit_code
    except UserError as error:
        log.error("%s", error)
        return 2
    except KeyboardInterrupt as error:
        log.error(
            "%s: finished work is kept; run the same command again to continue (vigil train with "
            "--resume)",
            str(error) or "interrupted",
        )
        return 130
    except BrokenPipeError:
        # The reader of our output closed it, as head does. Python would flush the rest at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (FileExistsError, NotADirectoryError) as error:
        log.error("%s is a file, or one of its parents is: give a folder", error.filename)
        return 2
    except OSError as error:
        log.error("%s", _explain(error))
        log.debug("traceback:", exc_info=True)
        return 1
    finally:
        signal.signal(signal.SIGTERM, earlier)


def _version() -> str:
    from vigil.extract.versions import installed_versions  # takes time, and is rarely needed

    return installed_versions().get("vigil-video", "(not installed: its version is unknown)")


def _terminate(_number: int, _frame: FrameType | None) -> NoReturn:
    """Stop as on Ctrl-C; a second SIGTERM ends the program immediately."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise KeyboardInterrupt("terminated")


def run(chosen: Any) -> int:
    """Run the command that has these options, and return its exit code.

    Raises:
        UserError: an option is wrong, or the command finds something that the user can put right.
    """
    check_options(chosen)
    _, target = find_command(type(chosen))
    name, _, function = target.partition(":")
    exit_code: int = getattr(import_module(f"vigil.pipeline.{name}"), function)(chosen)
    return exit_code


def _explain(error: OSError) -> str:
    """The message for an error of a disk or folder, with a remedy if one is known."""
    where = error.filename or "the output"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"no space is left for {where}: free some, then run the same command again to continue "
            "(vigil train with --resume)"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{where} cannot be read or written ({error.strerror}): choose another folder"
    return f"{where}: {error.strerror or error}"


if __name__ == "__main__":
    sys.exit(main())
