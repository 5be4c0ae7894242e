# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""What answers depend on, as hashes of contents: names, sizes and times of files say nothing about what is in them."""

import hashlib
import re
from functools import cache
from importlib.metadata import version
from pathlib import Path

from .tasks.task import Sample


# What `from_pretrained` may read of a folder; not its card, its scores, or the optimiser of a training
_MODEL_FILES = {".safetensors", ".bin", ".json", ".jinja", ".txt", ".model"}
_SCORES = re.compile(r"results.*\.json")
# Of this package: what turns a sample into an answer
_CODE_FOLDERS = ("adapters", "cli", "configuration", "data", "evaluation", "kernels", "modeling_rwkv7_world")
_CODE_FOLDERS += ("processing",)
_CODE_FILES = {".py", ".cpp", ".cu", ".h"}
_LIBRARIES = ("torch", "transformers")
_SHOWN = 12  # digits of a hash in a sentence


def model_fingerprint(model: str, described_by: str = "config.json") -> str:
    """A hash of all that a folder's model and processor, or adapter, are made of; of one of the Hub its commit.

    Args:
        model: A folder, a file, or a Hub id.
        described_by: The file that every such folder has.

    Raises:
        FileNotFoundError: If there is no such folder, and the Hub does not give it.
    """
    folder = Path(model).expanduser()
    if folder.is_file():
        return _digest(folder).hex()
    if folder.is_dir():
        files = [*folder.iterdir(), *folder.glob("additional_chat_templates/*")]
        return _hash_of_files(
            folder, [file for file in files if file.suffix in _MODEL_FILES and not _SCORES.match(file.name)]
        )
    from huggingface_hub import hf_hub_download

    try:
        described = hf_hub_download(model, described_by)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise FileNotFoundError(f"{model}: neither a folder here nor one that the Hub gives ({reason})") from error
    return Path(described).parent.name  # its cache names snapshots by their commit


@cache
def code_fingerprint() -> str:
    """Versions of the libraries that answer, and of this package with a hash of its source, as one line."""
    root = Path(__file__).parents[1]
    files = [file for name in _CODE_FOLDERS for file in (root / name).rglob("*") if file.suffix in _CODE_FILES]
    libraries = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    return f"rwkv7-world {_hash_of_files(root, files)[:_SHOWN]}, {libraries}"


def media_fingerprint(sample: Sample) -> str | None:
    """A hash of the contents of a sample's images and audio; `None` if it has none, or one that cannot be read."""
    digest = hashlib.sha256()
    try:
        for media in sample.media:
            digest.update(hashlib.sha256(media).digest() if isinstance(media, bytes) else _digest(Path(media)))
    except OSError:
        return None
    return digest.hexdigest() if sample.media else None


def _hash_of_files(root: Path, files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in sorted(file for file in files if file.is_file()):
        digest.update(file.relative_to(root).as_posix().encode() + b"\0" + _digest(file))
    return digest.hexdigest()


def _digest(file: Path) -> bytes:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").digest()
