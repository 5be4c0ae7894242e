# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Implementations of the same RWKV-7 text model, each in a process of its own, so that its memory can be told.

A contender is made in its process from a folder with our model, the same weights as BlinkDL's `.pth` and, where
llama.cpp takes part, as GGUF.
"""

import importlib.util
import multiprocessing
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch


CHECKPOINT, GGUF = "blinkdl.pth", "llama.gguf"
SHORT_PROMPT = 8  # tokens before those that are decoded
CHUNK = 2048  # tokens of a very long context that are read at a time


class Ours:
    """`RWKV7ForCausalLM` of this package."""

    def __init__(self, folder: Path, dtype: str):
        from .. import RWKV7ForCausalLM

        self.model = RWKV7ForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
        self.forward_seconds, self.started = 0.0, 0.0
        self.model.register_forward_pre_hook(self._start)
        self.model.register_forward_hook(self._stop)

    def _start(self, *_) -> None:
        self.started = time.perf_counter()

    def _stop(self, *_) -> None:
        self.forward_seconds += time.perf_counter() - self.started

    @torch.no_grad()
    def prefill(self, tokens: list[int]) -> None:
        self.model(torch.tensor([tokens]), use_cache=True, logits_to_keep=1)

    def decode(self, tokens: list[int], count: int) -> float:
        """Greedy, through `generate`. Returns the share of time beyond the model's own forward."""
        self.forward_seconds, start = 0.0, time.perf_counter()
        self.model.generate(torch.tensor([tokens]), max_new_tokens=count, do_sample=False)
        return (time.perf_counter() - start) / self.forward_seconds - 1

    @torch.no_grad()
    def state_bytes(self, tokens: list[int], length: int) -> int:
        """Bytes of the state after a context of `length` tokens, `tokens` over and over."""
        ids = torch.tensor(tokens).repeat(length // len(tokens) + 1)[None, :length]
        cache = None
        for chunk in ids.split(CHUNK, dim=1):
            cache = self.model(chunk, cache=cache, use_cache=True, logits_to_keep=1).cache
        tensors = [x for y in cache.layers for x in (*y.conv_states.values(), *y.recurrent_states.values())]
        return sum(x.nbytes for x in tensors if x is not None)


class RWKVPackage:
    """BlinkDL's `rwkv` package."""

    STRATEGIES = {"float32": "cpu fp32", "bfloat16": "cpu bf16"}

    def __init__(self, folder: Path, dtype: str):
        os.environ.update(RWKV_V7_ON="1", RWKV_JIT_ON="1", RWKV_CUDA_ON="0")  # read when the module is imported
        from rwkv.model import RWKV

        self.model = RWKV(model=str(folder / Path(CHECKPOINT).stem), strategy=self.STRATEGIES[dtype])

    def prefill(self, tokens: list[int]) -> None:
        self.model.forward(tokens, None)

    def decode(self, tokens: list[int], count: int) -> None:
        logits, state = self.model.forward(tokens, None)
        for _ in range(count - 1):
            logits, state = self.model.forward([int(logits.argmax())], state)


class LlamaCpp:
    """llama.cpp through `llama-cpp-python`, on a GGUF file of the same weights."""

    def __init__(self, folder: Path, dtype: str):
        from llama_cpp import Llama

        threads = torch.get_num_threads()
        self.model = Llama(str(folder / GGUF), n_ctx=4096, n_threads=threads, n_threads_batch=threads, verbose=False)

    def prefill(self, tokens: list[int]) -> None:
        self.model.reset()
        self.model.eval(tokens)

    def decode(self, tokens: list[int], count: int) -> None:
        self.prefill(tokens)
        for _ in range(count - 1):
            self.model.eval([self.model.sample(temp=0.0)])


CONTENDERS = {"ours": Ours, "rwkv": RWKVPackage, "llama.cpp": LlamaCpp}


def why_missing(name: str, llama_cpp: str | None) -> str | None:
    """Why a contender cannot take part, or `None`."""
    module = {"rwkv": "rwkv", "llama.cpp": "llama_cpp"}.get(name)
    if module and importlib.util.find_spec(module) is None:
        return f"{module} is not installed"
    if name == "llama.cpp" and not llama_cpp:
        return "its sources, which hold the converter to its format, were not given (--llama-cpp)"
    return None


def write_gguf(folder: Path, llama_cpp: Path, dtype: str) -> None:
    """Converts the model in `folder` by the converter in llama.cpp's sources.

    Raises:
        RuntimeError: If the converter fails.
    """
    converter, outtype = llama_cpp / "convert_hf_to_gguf.py", {"float32": "f32", "bfloat16": "bf16"}[dtype]
    command = [sys.executable, converter, folder, "--outtype", outtype, "--outfile", folder / GGUF]
    environment = os.environ | {"PYTHONPATH": str(llama_cpp / "gguf-py")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{converter} failed:\n{done.stderr}")


class Process:
    """A contender in its own process; times are taken there."""

    def __init__(self, name: str, source: Path, dtype: str, threads: int):
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, name, source, dtype, threads), daemon=True)
        self.process.start()
        other.close()

    def call(self, method: str, *args) -> tuple[float, object]:
        """Seconds and result of a method.

        Raises:
            RuntimeError: If it failed there.
        """
        self.pipe.send((method, args))
        try:
            seconds, result = self.pipe.recv()
        except EOFError:
            raise RuntimeError(f"the process for {method} ended, see above") from None
        return seconds, result

    def finish(self) -> int:
        """Ends the process; returns the most bytes of memory it ever held."""
        _, peak = self.call("peak_memory")
        self.pipe.close()
        self.process.join()
        return peak


def _serve(pipe, name: str, source: Path, dtype: str, threads: int) -> None:
    torch.set_num_threads(threads)
    contender = CONTENDERS[name](source, dtype)
    while True:
        try:
            method, args = pipe.recv()
        except EOFError:
            return
        run = _peak_memory if method == "peak_memory" else getattr(contender, method)
        start = time.perf_counter()
        result = run(*args)
        pipe.send((time.perf_counter() - start, result))


def _peak_memory() -> int:
    status = Path("/proc/self/status")
    if status.exists():  # on Linux the other figure begins with what the parent process held
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
