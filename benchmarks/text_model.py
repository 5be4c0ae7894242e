# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Times a text model with random weights, by default of the 0.1B shape: reading a prompt and `generate`.

Beside it run BlinkDL's `rwkv` package and, with --llama-cpp, llama.cpp, on the same weights at the same precision. All
take turns within one run; the medians' ratios are what to trust. Run on an idle machine.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import torch

from ..configuration.configuration_rwkv7 import RWKV7Config
from ..conversion.blinkdl import convert_to_blinkdl
from ..modeling_rwkv7_world.modeling_rwkv7 import RWKV7ForCausalLM
from ..processing.tokenization_rwkv_world import RWKVWorldTokenizer
from .contenders import CHECKPOINT, CONTENDERS, SHORT_PROMPT, Process, why_missing, write_gguf
from .measuring import describe, machine, matmul_rate, read_rate, save


PREFILLS = 3  # prompts that a contender reads in its turn, after one that is not timed
SHORT_CONTEXT = 100  # tokens whose state is compared with that of a very long context
FLOPS_PER_STATE_ENTRY = 9  # of the recurrence, per token


def main(argv: list[str] | None = None) -> int:
    """Runs the benchmark, prints a table and returns the exit status."""
    args = build_parser().parse_args(argv)
    torch.set_num_threads(args.threads or torch.get_num_threads())
    missing = {name: why_missing(name, args.llama_cpp) for name in CONTENDERS}
    for name, reason in missing.items():
        if reason:
            print(f"{name} is left out: {reason}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        shape = write_model(args, Path(folder))
        present = [name for name, reason in missing.items() if not reason]
        if "llama.cpp" in present:
            write_gguf(Path(folder), Path(args.llama_cpp), args.dtype)
        threads = torch.get_num_threads()
        contenders = {name: Process(name, Path(folder), args.dtype, threads) for name in present}
        report = {"shape": vars(args) | shape | {"json": None}, "machine": machine(), **measure(args, contenders)}
    report["floor"] = floor(shape, args)
    print_table(report)
    save(report, args.json)
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m rwkv7_world.benchmarks.text_model", description=__doc__)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768, help="a multiple of 64 (default: %(default)s)")
    parser.add_argument("--vocab", type=int, default=65536)
    parser.add_argument("--prompt", type=int, default=512, help="tokens that are read (default: %(default)s)")
    parser.add_argument("--new-tokens", type=int, default=256, help="tokens that are decoded (default: %(default)s)")
    parser.add_argument("--long", type=int, default=100_000, help="tokens of the long context, 0 for none")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every contender (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="threads of all (default: as torch chooses)")
    parser.add_argument("--llama-cpp", metavar="FOLDER", help="sources of llama.cpp, for its convert_hf_to_gguf.py")
    parser.add_argument("--json", metavar="FILE", help="also write the figures here")
    return parser


def write_model(args: argparse.Namespace, folder: Path) -> dict[str, int]:
    """Writes a random model in our format and BlinkDL's; returns its sizes."""
    torch.manual_seed(0)
    config = RWKV7Config(
        vocab_size=args.vocab,
        hidden_size=args.width,
        num_hidden_layers=args.layers,
        decay_low_rank_dim=64,
        a_low_rank_dim=64,
        v_low_rank_dim=32,
        gate_low_rank_dim=128,
        eos_token_id=None,  # so that nothing ends early
    )
    model = RWKV7ForCausalLM(config)
    for parameter in model.parameters():
        if not parameter.count_nonzero():  # many are zero at first, which a processor may multiply more quickly
            torch.nn.init.normal_(parameter, std=0.02)
    model = model.to(torch.bfloat16)
    model.save_pretrained(folder)
    RWKVWorldTokenizer().save_pretrained(folder)
    convert_to_blinkdl(folder, folder / CHECKPOINT)
    head, layers = model.lm_head.weight.numel(), sum(p.numel() for p in model.model.layers.parameters())
    state = config.num_hidden_layers * config.hidden_size * config.head_dim
    return {"parameters": model.num_parameters(), "head": head, "in_layers": layers, "state_entries": state}


def measure(args: argparse.Namespace, contenders: dict[str, Process]) -> dict:
    """Medians of tokens a second and more, all contenders one after the other, the first round not counted."""
    tokens = torch.randint(1, args.vocab, (args.prompt,), generator=torch.Generator().manual_seed(0)).tolist()
    seconds = {name: {"prefill": [], "decode": []} for name in contenders}
    overhead = []
    for _ in range(args.rounds + 1):
        for name, process in contenders.items():
            process.call("prefill", tokens)  # what the others left in the caches is none of its business
            seconds[name]["prefill"] += [process.call("prefill", tokens)[0] for _ in range(PREFILLS)]
            taken, beyond = process.call("decode", tokens[:SHORT_PROMPT], args.new_tokens)
            seconds[name]["decode"].append(taken)
            if name == "ours":
                overhead.append(beyond)
    counts = {"prefill": args.prompt, "decode": args.new_tokens}
    rates = {
        name: {
            phase: counts[phase] / statistics.median(taken[len(taken) // (args.rounds + 1) :])
            for phase, taken in phases.items()
        }
        for name, phases in seconds.items()
    }
    ours = contenders["ours"]
    lengths = [SHORT_CONTEXT, args.long] if args.long else [SHORT_CONTEXT]
    states = {length: ours.call("state_bytes", tokens, length)[1] for length in lengths}
    return {
        "tokens_per_second": rates,
        "generate_beyond_forward": statistics.median(overhead[1:]),
        "state_bytes": states,
        "peak_bytes": {name: process.finish() for name, process in contenders.items()},
    }


def floor(shape: dict[str, int], args: argparse.Namespace) -> dict[str, float]:
    """Tokens a second at the machine's limits: every product at the matmul rate, every weight read once a token."""
    dtype = getattr(torch, args.dtype)
    recurrence = FLOPS_PER_STATE_ENTRY * shape["state_entries"]
    operations = args.prompt * (2 * shape["in_layers"] + recurrence) + 2 * shape["head"]
    weights = (shape["in_layers"] + shape["head"]) * dtype.itemsize
    flops, bandwidth = matmul_rate(dtype), read_rate()
    return {
        "matmul_flops": flops,
        "read_bytes_per_second": bandwidth,
        "prefill": args.prompt * flops / operations,
        "decode": bandwidth / weights,
    }


def print_table(report: dict) -> None:
    shape, rates, limits = report["shape"], report["tokens_per_second"], report["floor"]
    print(f"{shape['parameters'] / 1e6:.1f} M parameters, {shape['dtype']}, {describe(report['machine'])}")
    print(f"limits: {limits['matmul_flops'] / 1e9:.0f} GFLOP/s, {limits['read_bytes_per_second'] / 1e9:.0f} GB/s")
    for phase, count in (("prefill", shape["prompt"]), ("decode", shape["new_tokens"])):
        print(f"\n| {phase} {count} | tokens/s | ours is so many times as fast | of the floor |\n|---|---|---|---|")
        for name, phases in rates.items():
            ratio, share = rates["ours"][phase] / phases[phase], phases[phase] / limits[phase]
            print(f"| {name} | {phases[phase]:.1f} | {ratio:.2f} | {share:.0%} |")
    print("\n| peak memory | MiB |\n|---|---|")
    for name, peak in report["peak_bytes"].items():
        print(f"| {name} | {peak / 2**20:.0f} |")
    print(f"\ngenerate() beyond the model's own forward: {report['generate_beyond_forward']:.1%}")
    for length, size in report["state_bytes"].items():
        print(f"state after {length} tokens: {size} bytes")


if __name__ == "__main__":
    sys.exit(main())
