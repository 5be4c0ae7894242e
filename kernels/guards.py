# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""When a kernel may stand in for modules: nothing differentiates, traces, wraps or watches them."""

import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn.modules import module as torch_module


def is_plain_inference() -> bool:
    """Whether operators now run as they are called: no gradients, tracing, autocast, function transforms or modes."""
    return not (
        torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch.is_autocast_enabled("cpu")
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack()
        or forward_ad._current_level >= 0
        or torch_module._has_any_global_hook()
    )


def is_plain_module(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether calling `module` in inference does what `kind.forward` does and nothing else.

    A subclass, a module with hooks on its forward pass, in training, compiled, or with a `forward` of its own, as
    accelerate gives it, is not plain.
    """
    return not module.training and is_unwatched(module, kind)


def is_unwatched(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether calling `module` does what `kind.forward` does and nothing else."""
    state = module.__dict__
    return (
        type(module) is kind
        and not state["_forward_hooks"]
        and not state["_forward_pre_hooks"]
        and "forward" not in state
        and state.get("_compiled_call_impl") is None
    )


def is_plain_tensor(tensor: torch.Tensor) -> bool:
    """Whether it is contiguous memory of the CPU and no subclass, as quantised weights and fake tensors are."""
    return (
        type(tensor) in (torch.Tensor, nn.Parameter)
        and tensor.device.type == "cpu"
        and tensor.layout is torch.strided
        and tensor.is_contiguous()
    )
