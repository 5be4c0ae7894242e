# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Peak memory of one training step: long samples in chunks of time, activation checkpointing, the loss in chunks.

Every step runs in a process of its own, on Linux. What is told is how much more memory it had at its peak than
when model, gradients and batch were there, with the step's loss, which shows that the ways agree.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

import torch

from ..configuration.configuration_rwkv7 import RWKV7Config
from ..modeling_rwkv7_world.modeling_rwkv7 import RWKV7ForCausalLM
from ..training.recipe.arguments import RWKVTrainingArguments
from ..training.trainer.trainer import RWKVTrainer
from .measuring import describe, machine, save


WAYS = {
    "plain": {},
    "checkpointing": {"activation_checkpointing": True},
    "loss in chunks": {"loss_chunk_size": 256},
    "checkpointing, loss in chunks": {"activation_checkpointing": True, "loss_chunk_size": 256},
    "chunks of time": {"chunk_length": 512, "loss_chunk_size": 256},
    "chunks of time, whole gradients": {"chunk_length": 512, "loss_chunk_size": 256, "detach_state": False},
}
FORGET_PEAK = "5"  # to the kernel


def main(argv: list[str] | None = None) -> int:
    """Runs the benchmark, prints a table and returns the exit status."""
    args = build_parser().parse_args(argv)
    cases = [(length, way) for length in args.lengths for way in WAYS]
    cases = [(length, way) for length, way in cases if length <= args.plain_up_to or "chunk_length" in WAYS[way]]
    rows = []
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as processes:
        for length, way in cases:
            figures = processes.apply(measure_step, (length, way, args.hidden, args.layers, args.vocab))
            rows.append({"tokens": length, "way": way} | figures)
            print(rows[-1], file=sys.stderr)
    report = {"shape": vars(args) | {"json": None}, "machine": machine(), "steps": rows}
    print_table(report)
    save(report, args.json)
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m rwkv7_world.benchmarks.training_memory", description=__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 4096, 16384])
    parser.add_argument("--plain-up-to", type=int, default=4096, help="longest sample without chunks of time")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocab", type=int, default=16384)
    parser.add_argument("--json", metavar="FILE", help="also write the figures here")
    return parser


def measure_step(length: int, way: str, hidden: int, layers: int, vocab: int) -> dict[str, float]:
    """Megabytes that a step needs, its seconds and its loss."""
    torch.manual_seed(0)
    model = RWKV7ForCausalLM(RWKV7Config(hidden_size=hidden, num_hidden_layers=layers, vocab_size=vocab))
    ids = torch.randint(1, vocab, (1, length))
    batch = {"input_ids": ids, "labels": ids.clone()}
    with tempfile.TemporaryDirectory() as folder:
        arguments = RWKVTrainingArguments(output_dir=folder, use_cpu=True, report_to="none", **WAYS[way])
        trainer = RWKVTrainer(model, arguments)
        if arguments.activation_checkpointing:
            model.gradient_checkpointing_enable()
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        counts = trainer._get_num_items_in_batch([batch], arguments.device)
        Path("/proc/self/clear_refs").write_text(FORGET_PEAK)
        before, start = _memory("VmRSS"), time.perf_counter()
        loss = trainer.training_step(model, batch, counts)
        seconds = time.perf_counter() - start
        needed = _memory("VmHWM") - before
    return {"megabytes": round(needed / 1e6), "seconds": round(seconds, 1), "loss": round(loss.item(), 5)}


def _memory(name: str) -> int:
    """Bytes of this process, "VmRSS" now or "VmHWM" at the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def print_table(report: dict) -> None:
    shape, steps = report["shape"], report["steps"]
    print(f"L{shape['layers']} D{shape['hidden']} V{shape['vocab']}, float32, {describe(report['machine'])}\n")
    print("| tokens | " + " | ".join(f"{way}, MB" for way in WAYS) + " |")
    print("|" + "---|" * (len(WAYS) + 1))
    for length in shape["lengths"]:
        found = {step["way"]: step["megabytes"] for step in steps if step["tokens"] == length}
        print(f"| {length} | " + " | ".join(str(found.get(way, "")) for way in WAYS) + " |")


if __name__ == "__main__":
    sys.exit(main())
