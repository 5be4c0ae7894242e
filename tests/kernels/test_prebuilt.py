# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Libraries that a wheel carries are used where they fit, and only there."""

import re
import shutil
from pathlib import Path

import pytest

from rwkv7_world.kernels import native_library, prebuild
from rwkv7_world.kernels.cpu import fused
from rwkv7_world.kernels.native_library import NativeLibraryError, load_library


NAME = "rwkv7_fused_cpu"

pytestmark = pytest.mark.skipif(fused.SOURCE.with_name("prebuilt").exists(), reason="the checkout holds libraries")


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A copy of the sources beside the built library, on a machine that builds nothing."""
    try:
        load_library(NAME, fused.SOURCE)
    except NativeLibraryError as error:
        pytest.skip(str(error))
    folder = tmp_path / "cpu"
    shutil.copytree(fused.SOURCE.parent, folder)
    monkeypatch.setattr(prebuild, "LIBRARIES", {NAME: folder / fused.SOURCE.name})
    prebuild.prebuild()
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "empty"))
    monkeypatch.setenv("RWKV7_BUILD", "0")
    return folder


def test_one_that_fits_is_loaded_without_building(place, tmp_path):
    library = load_library(NAME, place / fused.SOURCE.name)
    assert Path(library._name).parent == place / "prebuilt"
    assert not (tmp_path / "empty").exists()


@pytest.mark.parametrize("difference", ["torch", "processor", "source"])
def test_one_of_another_build_is_left_alone(place, monkeypatch, difference):
    if difference == "torch":
        monkeypatch.setattr(native_library.torch, "__version__", "0.0.0")
    elif difference == "processor":
        monkeypatch.setattr(native_library, "_processor_features", lambda: "another")
    else:
        (place / "layers.h").write_text("// another\n")
    with pytest.raises(NativeLibraryError, match="not built yet"):
        load_library(NAME, place / fused.SOURCE.name)


def test_a_wheel_carries_every_library_of_the_cpu_kernels():
    texts = [file.read_text(encoding="utf-8") for file in fused.SOURCE.parent.glob("*.py")]
    assert set(prebuild.LIBRARIES) == set(re.findall(r'@library_of_structures\("(\w+)"', "\n".join(texts)))
