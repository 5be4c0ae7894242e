# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that are whole or not there: written under another name, then renamed."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint


# Where unfinished checkpoints are; a name that neither resuming nor uploading takes for anything
PARTIAL_FOLDER = "_partial"


def checkpoint_name(step: int) -> str:
    """Name of the folder of a checkpoint, as transformers calls it."""
    return f"{PREFIX_CHECKPOINT_DIR}-{step}"


def last_checkpoint(output_dir: str | Path) -> Path | None:
    """The last whole checkpoint of a run, `None` if there is none."""
    if not Path(output_dir).is_dir():
        return None
    found = get_last_checkpoint(str(output_dir))
    return None if found is None else Path(found)


def stale_checkpoints(output_dir: str | Path) -> list[Path]:
    """What saves that never ended have left behind."""
    return sorted(Path(output_dir, PARTIAL_FOLDER).glob(f"{PREFIX_CHECKPOINT_DIR}-*"))


def publish(partial: Path, output_dir: Path) -> Path:
    """Moves a finished checkpoint to its name, in one step of the file system; one of that name is replaced.

    All of it is on the disk before it has that name, so that a loss of power leaves no empty files behind it. Until
    then, the one that is replaced goes by another name of the same step, so that a whole one is found at any time.
    """
    final = output_dir / partial.name
    replaced = output_dir / partial.name.replace("-", "-0", 1)
    for path in [*partial.rglob("*"), partial]:
        _flush(path)
    if final.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        final.rename(replaced)
    partial.rename(final)
    _flush(output_dir)
    shutil.rmtree(replaced, ignore_errors=True)
    if not any(partial.parent.iterdir()):
        partial.parent.rmdir()
    return final


def _flush(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    if os.name == "nt":
        return  # where neither folders nor files open for reading can be
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(write: Callable[[], None], output_dir: Path, what: str) -> None:
    """Calls `write`, and says what is the matter where it fails.

    Args:
        write: Writes something into `output_dir`.
        output_dir: The folder of the run.
        what: For the message.

    Raises:
        OSError: If the disk is full, or anything else keeps it from being written.
    """
    try:
        write()
    except Exception as error:  # OSError, RuntimeError of torch.save, SafetensorError ...
        free = shutil.disk_usage(output_dir).free / 1e9
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        last = last_checkpoint(output_dir)
        kept = f"the last whole checkpoint is {last}" if last else "there is no earlier checkpoint"
        raise OSError(
            f"{output_dir}: {what} could not be written ({reason}; {free:.2f} GB are free there); {kept}"
        ) from error
