"""Settings that a method, a machine or several processes cannot train with."""

import torch

from vigil.extract.errors import UserError
from vigil.model.methods import METHODS, find_method
from vigil.pipeline.recipe import Recipe
from vigil.pipeline.training.ranks import Ranks


def require_span_choice(recipe: Recipe) -> None:
    """Refuse spans for a method that is not trained by epochs, and so has no model to choose with.

    Raises:
        UserError: names the method and those that allow spans.
    """
    if recipe.features.span_frames and not find_method(recipe.method).detector.has_epochs:
        others = [name for name in METHODS if find_method(name).detector.has_epochs]
        raise UserError(
            f"method {recipe.method!r} does not support span_frames = "
            f"{recipe.features.span_frames}: it is not trained by epochs, each of which "
            f"chooses spans; use span_frames = 0 or one of {', '.join(others)}"
        )


def require_ranks(recipe: Recipe, ranks: Ranks) -> None:
    """Refuse several ranks where they could not share the work.

    Raises:
        UserError: names the setting, and what several ranks can train.
    """
    if ranks.is_alone:
        return
    alone = "or train in one process, without torchrun"
    if not find_method(recipe.method).detector.has_epochs:
        others = [name for name in METHODS if find_method(name).detector.has_epochs]
        raise UserError(
            f"method {recipe.method!r} is not trained by epochs, which is what the "
            f"{ranks.number} processes of torchrun share: use one of {', '.join(others)}, {alone}"
        )
    if recipe.training.compile:
        raise UserError(
            f"compile = true does not work in {ranks.number} processes, which draw dropout and "
            f"normalize for the whole batch: remove it, {alone}"
        )
    bags = recipe.training.num_anomalous + recipe.training.num_normal
    if ranks.number > bags:
        raise UserError(
            f"{ranks.number} processes cannot share batches of {bags} videos: start at most "
            f"{bags}, or raise num_anomalous and num_normal, {alone}"
        )


def require_compiler(device: torch.device) -> None:
    """Refuse to compile where that does not work.

    Raises:
        UserError: says why it does not.
    """
    try:
        torch.compile(torch.sin)(torch.zeros(2, device=device))
    except Exception as error:  # any type, because compilers and drivers differ
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"compile = true does not work here ({reason}): on a CPU, install a C++ compiler such "
            "as g++, or remove the setting"
        ) from error
