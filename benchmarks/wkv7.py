# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Times the operator `wkv7` in every backend that can run here, beside causal attention of the same shape.

All take turns within one run, so that a change of the machine's speed meets all of them alike; the medians' ratios are
what to trust. Run on an idle machine.
"""

import argparse
import sys
from collections.abc import Callable

import torch
from torch.nn import functional as F

from ..kernels.wkv7 import explain_backends, wkv7
from .measuring import describe, machine, medians_in_turns, save


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ATTENTION = "attention"  # `scaled_dot_product_attention`, causal
REFERENCE_MAX_TIME = 1024  # the loop over tokens takes too long beyond


def main(argv: list[str] | None = None) -> int:
    """Runs the benchmark, prints a table and returns the exit status."""
    args = build_parser().parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    inputs = random_inputs(args.batch, args.time, args.heads, args.head_dim, DTYPES[args.dtype])
    reasons = explain_backends() | dict.fromkeys(("triton", "cuda"), "this benchmark runs on the CPU")
    contenders = {name: reason for name, reason in reasons.items() if reason == "ok"}
    if args.time > REFERENCE_MAX_TIME:
        contenders.pop("reference")
    for name, reason in reasons.items():
        if reason != "ok":
            print(f"{name} is left out: {reason}", file=sys.stderr)

    results = {}
    for direction, make in (("forward", forward_call), ("forward and backward", backward_call)):
        calls = {name: make(name, inputs) for name in (*contenders, ATTENTION)}
        results[direction] = medians_in_turns(calls, args.rounds)
    report = {"shape": vars(args) | {"json": None}, "machine": machine(), "milliseconds": results}
    print_table(report)
    save(report, args.json)
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m rwkv7_world.benchmarks.wkv7", description=__doc__)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--time", type=int, default=1024, help="tokens of a sequence (default: %(default)s)")
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--rounds", type=int, default=9, help="turns of every contender (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="threads of torch (default: as torch chooses)")
    parser.add_argument("--json", metavar="FILE", help="also write the figures here")
    return parser


def random_inputs(batch: int, time: int, heads: int, head_dim: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """r, w, k, v, a, b as the model makes them, (batch, time, heads, head_dim)."""
    generator = torch.Generator().manual_seed(0)

    def normal():
        return torch.randn(batch, time, heads, head_dim, generator=generator)

    kk, gate = F.normalize(normal(), dim=-1), torch.sigmoid(normal())
    w = -0.6065 * torch.sigmoid(2 * normal() - 2)
    return [x.to(dtype) for x in (normal(), w, normal() / head_dim**0.5, normal(), -kk, kk * gate)]


def forward_call(name: str, inputs: list[torch.Tensor]) -> Callable[[], object]:
    def call():
        with torch.no_grad():
            return operator(name, inputs)

    return call


def backward_call(name: str, inputs: list[torch.Tensor]) -> Callable[[], object]:
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    dy = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1)).to(inputs[0].dtype)
    used = [inputs[i] for i in (0, 2, 3)] if name == ATTENTION else inputs
    return lambda: torch.autograd.grad(operator(name, inputs), used, dy)


def operator(name: str, inputs: list[torch.Tensor]) -> torch.Tensor:
    if name != ATTENTION:
        return wkv7(*inputs, backend=name)[0]
    q, k, v = (inputs[i].transpose(1, 2) for i in (0, 2, 3))  # (B, H, T, N)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)


def print_table(report: dict) -> None:
    shape, where = report["shape"], report["machine"]
    sizes = f"B{shape['batch']} T{shape['time']} H{shape['heads']} N{shape['head_dim']} {shape['dtype']}"
    print(f"{sizes}, {describe(where)}")
    for direction, times in report["milliseconds"].items():
        print(f"\n| {direction} | ms | times as long as the first |\n|---|---|---|")
        first = next(iter(times.values()))
        for name, milliseconds in times.items():
            print(f"| {name} | {milliseconds:.2f} | {milliseconds / first:.2f} |")


if __name__ == "__main__":
    sys.exit(main())
