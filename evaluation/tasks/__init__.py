# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Benchmarks by name: their official files, prompts, rules and published figures."""

from .bits_per_character import BITS_PER_CHARACTER
from .gqa import GQA
from .mmbench import MMBENCH
from .mmmu import MMMU
from .picture_questions import PICTURE_QUESTIONS
from .pope import POPE
from .scienceqa import SCIENCEQA
from .speech_recognition import SPEECH_TASKS
from .task import DataOptions, Published, Sample, Score, Task
from .textvqa import TEXTVQA
from .vizwiz import VIZWIZ
from .vqav2 import VQAV2


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        *SPEECH_TASKS,
        VQAV2,
        TEXTVQA,
        GQA,
        SCIENCEQA,
        POPE,
        VIZWIZ,
        MMBENCH,
        MMMU,
        PICTURE_QUESTIONS,
        BITS_PER_CHARACTER,
    )
}


def find_task(name: str) -> Task:
    """The benchmark of that name.

    Raises:
        ValueError: If there is none.
    """
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}, expected one of {', '.join(TASKS)}")
    return TASKS[name]


__all__ = ["TASKS", "DataOptions", "Published", "Sample", "Score", "Task", "find_task"]
