"""The help texts of options, which tyro takes from our docstrings as they stand in the source."""

from collections.abc import Callable
from dataclasses import is_dataclass, replace
from functools import partial
from typing import Annotated, Any

from tyro.conf import Suppress, arg
from tyro.constructors import (
    ConstructorRegistry,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from vigil.pipeline.short_help import is_usual
from vigil.pipeline.usage import SHORT_FLAGS

_BY_ITS_OWN_RULES = object()


def _rewriting(
    rewrite: Callable[[type[Any], StructFieldSpec], StructFieldSpec],
) -> ConstructorRegistry:
    """What makes tyro read a dataclass by its own rules, and then rewrite its fields."""
    registry = ConstructorRegistry()

    @registry.struct_rule
    def rewritten(info: StructTypeInfo) -> StructConstructorSpec | None:
        """Return how tyro builds a dataclass; None leaves the type to tyro."""
        if not is_dataclass(info.type) or _BY_ITS_OWN_RULES in info.markers:
            return None
        asked = replace(info, markers=(*info.markers, _BY_ITS_OWN_RULES))
        own = ConstructorRegistry.get_struct_spec(asked)
        if not isinstance(own, StructConstructorSpec):
            return None
        return replace(own, fields=tuple(rewrite(info.type, field) for field in own.fields))

    return registry


def _with_help(_kind: type[Any], field: StructFieldSpec) -> StructFieldSpec:
    """Return a field with its help as one paragraph; a default that is empty is not shown."""
    kind: Any = field.type
    if short := SHORT_FLAGS.get(f"--{field.name}"):
        kind = Annotated[kind, arg(aliases=[short])]
    if field.default is None or field.default == ():
        kind = Annotated[kind, arg(help_behavior_hint="")]
    elif field.default is True:  # its flag is --no-NAME
        kind = Annotated[kind, arg(help_behavior_hint="(used by default; this turns it off)")]
    return replace(field, type=kind, helptext=partial(_paragraph, field.helptext))


def _only_if_usual(kind: type[Any], field: StructFieldSpec) -> StructFieldSpec:
    """Return a field with its help, hidden unless the help on one screen shows it."""
    shown = _with_help(kind, field)
    if is_usual(kind, field.name) and not is_dataclass(field.default):
        return shown
    hide: Any = Suppress
    return replace(shown, type=hide[shown.type])


def _paragraph(helptext: str | Callable[[], str | None] | None) -> str | None:
    """Return a help text without line breaks; tyro reads it from the source when it is shown."""
    text = helptext() if callable(helptext) else helptext
    return None if text is None else " ".join(text.split())


ALL_OPTIONS, USUAL_OPTIONS = _rewriting(_with_help), _rewriting(_only_if_usual)
"""For tyro: every option, and only those that ``--help`` explains."""
