# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Greedy decoding through torch.compile (inductor) beside eager PyTorch, where the layers run as ordinary modules.

That is the case for a model that PEFT has wrapped and for RWKV-7a: the C++ engine for all layers takes neither. Both
ways decode the same tokens with the same weights, in turns.
"""

import argparse
import copy
import sys

import torch

from ..configuration.configuration_rwkv7 import RWKV7Config
from ..modeling_rwkv7_world.modeling_rwkv7 import RWKV7ForCausalLM
from .measuring import describe, machine, medians_in_turns, save


MODELS = ("lora", "rwkv7a")
PROMPT = 8  # tokens


def main(argv: list[str] | None = None) -> int:
    """Runs the benchmark, prints a table and returns the exit status."""
    args = build_parser().parse_args(argv)
    report = {"shape": vars(args) | {"json": None}, "machine": machine(), "milliseconds_per_token": {}}
    for name in MODELS:
        report["milliseconds_per_token"][name] = measure(name, args)
    print_table(report)
    save(report, args.json)
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m rwkv7_world.benchmarks.compiled", description=__doc__)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--vocab", type=int, default=65536)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--tokens", type=int, default=32, help="decoded in each turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", metavar="FILE", help="also write the figures here")
    return parser


@torch.no_grad()
def measure(name: str, args: argparse.Namespace) -> dict[str, float]:
    """Median milliseconds of a decoded token, by the way it runs."""
    torch.manual_seed(0)
    deep_embed = {"deep_embed_dim": 32} if name == "rwkv7a" else {}
    config = RWKV7Config(
        hidden_size=args.hidden, num_hidden_layers=args.layers, vocab_size=args.vocab, eos_token_id=None, **deep_embed
    )
    model = RWKV7ForCausalLM(config).to(getattr(torch, args.dtype)).eval()
    if name == "lora":
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(r=16, target_modules=["r_proj", "k_proj", "v_proj", "o_proj"]))
        model = model.get_base_model()
    compiled = copy.deepcopy(model)
    compiled.forward = torch.compile(compiled.forward)
    ids = torch.randint(1, args.vocab, (1, PROMPT))
    options = {"max_new_tokens": args.tokens, "min_new_tokens": args.tokens, "do_sample": False}
    calls = {
        "eager": lambda: model.generate(ids, **options),
        "compiled": lambda: compiled.generate(ids, **options),
    }
    return {way: milliseconds / args.tokens for way, milliseconds in medians_in_turns(calls, args.rounds).items()}


def print_table(report: dict) -> None:
    shape = report["shape"]
    sizes = f"L{shape['layers']} D{shape['hidden']} V{shape['vocab']}, {shape['dtype']}"
    print(f"{sizes}, {describe(report['machine'])}; ms a token\n")
    print("| model | eager | compiled | times as fast |\n|---|---|---|---|")
    for name, times in report["milliseconds_per_token"].items():
        eager, compiled = times["eager"], times["compiled"]
        print(f"| {name} | {eager:.1f} | {compiled:.1f} | {eager / compiled:.2f} |")


if __name__ == "__main__":
    sys.exit(main())
