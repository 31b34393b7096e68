"""`vigil completion`: print the script with which a shell completes commands and flags."""

from vigil.pipeline.arguments import parse
from vigil.pipeline.options import CompletionOptions


def run_completion(options: CompletionOptions) -> int:
    """Print the script, which the parser makes of all commands, and return 0."""
    try:
        parse(["--tyro-print-completion", options.shell])
    except SystemExit as ended:
        return int(ended.code or 0)
    raise AssertionError("the parser ends the program after it has printed a script")
