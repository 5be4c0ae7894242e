# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Tokenised documents in Megatron's format, a pair of files .bin and .idx, as RWKV-LM and RWKV-PEFT read them.

The index is: magic, version, code of the tokens' type, numbers of sizes and of bounds; sizes in tokens (int32), places
in bytes (int64), and bounds, the first size of every document and the end (int64). All is little-endian. The source is
`json2binidx_tool`.
"""

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset


MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct("<9sQBQQ")
TOKEN_TYPES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16}
LARGEST_UINT16_VOCABULARY = 65_500  # from which json2binidx_tool takes int32


class BinidxDataset(Dataset):
    """Documents as rows `{"input_ids": [...]}`, mapped from the disk.

    Args:
        path: The .bin, the .idx, or what both have in front of that.

    Raises:
        FileNotFoundError: If either file is missing.
        ValueError: If they are no such pair.
    """

    def __init__(self, path: str | Path):
        self.prefix = _prefix(Path(path))
        index = _with_suffix(self.prefix, ".idx").read_bytes()
        dtype, self.sizes, self.places, self.bounds = _parse(index, self.prefix)
        tokens = _with_suffix(self.prefix, ".bin")
        expected = int(self.sizes.sum()) * np.dtype(dtype).itemsize
        if tokens.stat().st_size < expected:
            raise ValueError(f"{tokens}: {tokens.stat().st_size} bytes, but its index tells of {expected}")
        self.tokens = np.memmap(tokens, dtype=dtype, mode="r") if expected else np.empty(0, dtype)

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, document: int) -> dict:
        if not 0 <= document < len(self):
            raise IndexError(f"document {document} of {len(self)}")
        start, stop = self.bounds[document], self.bounds[document + 1]
        begin = int(self.places[start]) // self.tokens.itemsize if start < len(self.places) else 0
        token_ids = self.tokens[begin : begin + int(self.sizes[start:stop].sum())]
        return {"input_ids": token_ids.astype(np.int64).tolist(), "source": f"{self.prefix}.bin[{document}]"}

    def select(self, documents: Sequence[int]) -> "BinidxDataset":
        """The given documents, which stand one after the other."""
        part = object.__new__(BinidxDataset)
        part.__dict__.update(self.__dict__)
        start, stop = (documents[0], documents[-1] + 1) if len(documents) else (0, 0)
        part.bounds = self.bounds[start : stop + 1]
        return part


def read_binidx(path: str) -> BinidxDataset:
    """Tokenised documents of a pair of files .bin and .idx, named by either or by what they share."""
    return BinidxDataset(path)


def write_binidx(prefix: str | Path, documents: Iterable[Sequence[int]], vocab_size: int) -> int:
    """Writes documents as `prefix.bin` and `prefix.idx`, which appear together when all is written.

    Args:
        prefix: The files' path without their suffixes.
        documents: Token ids; an end-of-document token is theirs to bring.
        vocab_size: Decides between uint16 and int32.

    Returns:
        How many documents were written.

    Raises:
        ValueError: If a token does not belong to the vocabulary.
    """
    prefix = Path(prefix)
    code = 8 if vocab_size < LARGEST_UINT16_VOCABULARY else 4
    targets = {suffix: _with_suffix(prefix, suffix) for suffix in (".bin", ".idx")}
    partial = {suffix: target.with_name(target.name + ".partial") for suffix, target in targets.items()}
    try:
        with open(partial[".bin"], "wb") as file:
            sizes = [_write_document(file, token_ids, vocab_size, TOKEN_TYPES[code]) for token_ids in documents]
        partial[".idx"].write_bytes(_index(np.array(sizes, np.int32), code))
        for suffix, target in targets.items():
            partial[suffix].replace(target)
    finally:
        for path in partial.values():
            path.unlink(missing_ok=True)
    return len(sizes)


def _write_document(file, token_ids: Sequence[int], vocab_size: int, dtype) -> int:
    token_ids = np.asarray(token_ids, np.int64)
    if len(token_ids) and not 0 <= token_ids.min() <= token_ids.max() < vocab_size:
        raise ValueError(
            f"a document has tokens {token_ids.min()} to {token_ids.max()}, expected 0 to {vocab_size - 1}"
        )
    file.write(token_ids.astype(dtype).tobytes())
    return len(token_ids)


def _index(sizes: np.ndarray, code: int) -> bytes:
    ends = np.cumsum(sizes, dtype=np.int64) * np.dtype(TOKEN_TYPES[code]).itemsize
    places = np.concatenate([[0], ends[:-1]]).astype(np.int64) if len(sizes) else np.empty(0, np.int64)
    bounds = np.arange(len(sizes) + 1, dtype=np.int64)
    header = HEADER.pack(MAGIC, VERSION, code, len(sizes), len(bounds))
    return header + sizes.tobytes() + places.tobytes() + bounds.tobytes()


def _parse(index: bytes, prefix: Path) -> tuple[type, np.ndarray, np.ndarray, np.ndarray]:
    """Type of tokens, sizes, places and bounds."""
    file = _with_suffix(prefix, ".idx")
    if len(index) < HEADER.size or not index.startswith(MAGIC):
        raise ValueError(f"{file}: no index of tokenised documents (it does not begin with {MAGIC[:7].decode()})")
    _, version, code, num_sizes, num_bounds = HEADER.unpack_from(index)
    if version != VERSION or code not in TOKEN_TYPES:
        raise ValueError(f"{file}: version {version} with tokens of type {code}, expected version {VERSION}")
    if len(index) != HEADER.size + 12 * num_sizes + 8 * num_bounds:
        raise ValueError(f"{file}: {len(index)} bytes do not hold {num_sizes} sizes and {num_bounds} bounds")
    sizes = np.frombuffer(index, "<i4", num_sizes, HEADER.size)
    places = np.frombuffer(index, "<i8", num_sizes, HEADER.size + 4 * num_sizes)
    bounds = np.frombuffer(index, "<i8", num_bounds, HEADER.size + 12 * num_sizes)
    if num_bounds == 0 or (np.diff(bounds, prepend=0) < 0).any() or bounds[-1] != num_sizes:
        raise ValueError(f"{file}: its documents do not end with its {num_sizes} sizes")
    return TOKEN_TYPES[code], sizes, places, bounds


def _prefix(path: Path) -> Path:
    prefix = path.with_name(path.name.removesuffix(".bin").removesuffix(".idx"))
    for suffix in (".idx", ".bin"):
        if not _with_suffix(prefix, suffix).is_file():
            raise FileNotFoundError(f"{_with_suffix(prefix, suffix)}: no such file")
    return prefix


def _with_suffix(prefix: Path, suffix: str) -> Path:
    return prefix.with_name(prefix.name + suffix)
