"""What a check has found, and a check itself."""

import re
from dataclasses import dataclass
from typing import Any, Literal

State = Literal["ok", "warning", "problem"]
OK: State = "ok"
WARNING: State = "warning"
PROBLEM: State = "problem"


@dataclass(frozen=True)
class Finding:
    """One line of the answer."""

    check: str
    """What was looked at."""
    state: State
    found: str
    """The value, or what is wrong."""
    remedy: str = ""
    """What to do, if anything is to be done: a command to type where there is one."""


@dataclass(frozen=True)
class Check:
    """Some lines of the answer, which are found together."""

    name: str
    """What is said to have failed if it does."""
    target: str
    """A function that yields findings, as MODULE:NAME: only its own process imports it."""
    arguments: tuple[Any, ...] = ()
    seconds: float = 60.0
    """Time limit for all of it."""
    remedy: str = ""
    """What to do if it takes longer."""


def without_login(text: str) -> str:
    """The text without what stands before the host in addresses: user and password."""
    return re.sub(r"://[^/\s]*@", "://", text)
