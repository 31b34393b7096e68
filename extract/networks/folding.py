"""Fold batch norms into the convolutions before them: fewer operations, the same function."""

import copy
from typing import Any

import torch
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval


def folded(convolution: nn.Conv3d, batch_norm: nn.BatchNorm3d) -> nn.Conv3d:
    """A new float64 convolution, equivalent to the convolution followed by the batch norm."""
    return fuse_conv_bn_eval(
        copy.deepcopy(convolution).double().eval(), copy.deepcopy(batch_norm).double().eval()
    )


def fold_batch_norms(network: nn.Module) -> torch.fx.GraphModule:
    """Copy a network, folding each batch norm that directly follows a convolution.

    Raises:
        Exception: of any type, if `torch.fx` cannot trace the network.
    """
    traced = torch.fx.symbolic_trace(copy.deepcopy(network))
    modules: dict[Any, nn.Module] = dict(traced.named_modules())
    calls = [node.target for node in traced.graph.nodes if node.op == "call_module"]
    for node in list(traced.graph.nodes):
        batch_norm = modules.get(node.target)
        if node.op != "call_module" or not isinstance(batch_norm, nn.BatchNorm3d):
            continue
        before = node.args[0]
        convolution = modules.get(before.target) if before.op == "call_module" else None
        alone = len(before.users) == 1 and calls.count(before.target) == 1
        if isinstance(convolution, nn.Conv3d) and alone:
            traced.set_submodule(before.target, folded(convolution, batch_norm).float())
            node.replace_all_uses_with(before)
            traced.graph.erase_node(node)
    traced.recompile()
    return traced
