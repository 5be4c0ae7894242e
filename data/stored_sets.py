# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Sets of the `datasets` library: saved, as parquet files, or on the Hub."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..configuration.optional_libraries import optional_imports
from .file_versions import version_of_files


if TYPE_CHECKING:
    import datasets


SAVED_MARK = "state.json"


def is_stored_folder(folder: Path) -> bool:
    """Whether a folder holds a saved set, or parquet files, itself or in folders of its own."""
    return any(_is_set(part) for part in [folder, *_subfolders(folder)])


def is_fetched(path: str) -> bool:
    """Whether a set of this name is not on this machine, but fetched from the Hub."""
    return not Path(path).is_dir()


def folders_of_fetched_sets() -> list[Path]:
    """Where the files of sets from the Hub are kept."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from transformers.utils import is_datasets_available

    folders = [HF_HUB_CACHE]
    if is_datasets_available():
        from datasets import config

        folders += [config.HF_DATASETS_CACHE, config.DOWNLOADED_DATASETS_PATH]
    return [Path(folder).resolve() for folder in folders]


def leads_out_of(folders: list[Path], name: str) -> bool:
    """Whether a path is that of a file outside of all folders, with `..` and links followed to their end.

    Args:
        folders: Resolved ones.
        name: The path; one of no file leads nowhere.
    """
    return os.path.exists(name) and not any(Path(name).resolve().is_relative_to(folder) for folder in folders)


def load_stored(path: str, name: str | None = None, split: str = "train", streaming: bool = False):
    """A set of the `datasets` library, with its media as the bytes or paths of their files.

    Args:
        path: A folder of `save_to_disk`, one of parquet files, one with such folders, or a set's id on the Hub.
        name: Configuration of a set on the Hub.
        split: Of it, or of a saved `DatasetDict`.
        streaming: Whether to read it as rows are asked for.
    """
    return _undecoded(_load(path, name, split, streaming))


def _load(path: str, name: str | None, split: str, streaming: bool):
    with optional_imports():
        import datasets  # here, for whoever reads no stored set need not have it

    folder = Path(path)
    if is_fetched(path):
        return datasets.load_dataset(path, name, split=split, streaming=streaming)
    parts = [_load_folder(part, split) for part in [folder, *_subfolders(folder)] if _is_set(part)]
    if not parts:
        return datasets.load_dataset(path, name, split=split, streaming=streaming, cache_dir=_cache_of(folder))
    whole = datasets.concatenate_datasets(parts)
    return whole.to_iterable_dataset() if streaming else whole


def _load_folder(folder: Path, split: str) -> "datasets.Dataset":
    with optional_imports():
        import datasets

    if not (folder / SAVED_MARK).exists():
        files = [str(file) for file in sorted(folder.glob("*.parquet"))]
        return datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=_cache_of(folder))
    saved = datasets.load_from_disk(str(folder))
    return saved[split] if isinstance(saved, datasets.DatasetDict) else saved


def _cache_of(folder: Path) -> str:
    """A cache for a folder as it is now: `datasets` looks at the times of files alone, which can be set back."""
    import datasets

    version = hashlib.sha256(repr(version_of_files(folder)).encode()).hexdigest()
    return str(Path(datasets.config.HF_DATASETS_CACHE, version))


def _is_set(folder: Path) -> bool:
    return (folder / SAVED_MARK).exists() or any(folder.glob("*.parquet"))


def _subfolders(folder: Path) -> list[Path]:
    return sorted(part for part in folder.iterdir() if part.is_dir() and not part.name.startswith("."))


def _undecoded(rows):
    """The set with its media, however deep in a column, as the bytes or paths of their files."""
    import datasets

    bare = {column: _undecoded_feature(feature) for column, feature in (rows.features or {}).items()}
    changed = {column: feature for column, feature in bare.items() if feature is not rows.features[column]}
    if isinstance(rows, datasets.IterableDataset):
        for column, feature in changed.items():
            rows = rows.cast_column(column, feature)
        return rows
    # The same table under other features: `Dataset.cast` would copy media that are in lists to the disk
    return datasets.Dataset(rows.data.cast(datasets.Features(bare).arrow_schema)) if changed else rows


def _undecoded_feature(feature):
    """A feature whose media are not decoded; the same object if it has none."""
    import datasets

    if isinstance(feature, (datasets.Image, datasets.Audio, datasets.Video)):
        return replace(feature, decode=False)
    if isinstance(feature, (datasets.List, datasets.LargeList)):
        inner = _undecoded_feature(feature.feature)
        return feature if inner is feature.feature else replace(feature, feature=inner)
    if isinstance(feature, dict):
        inner = {name: _undecoded_feature(part) for name, part in feature.items()}
        return inner if any(inner[name] is not feature[name] for name in feature) else feature
    return feature
