# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""What WorldRWKV's checkpoints call their tensors, era by era, and what names and shapes tell of one.

Three families of names: E1 to E3 keep the text model's names and put the rest under `modality.`, E4 to E6 have `llm.`,
`proj.` and `encoder.`, the attempt at a Hugging Face model has `model.llm.` in the fla format. Everything else that
distinguishes the eras, above all the chat template, is in no tensor.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .weights import Shape, check_exactly


ERAS = ("E1", "E2", "E3", "E4", "E5", "E6")

# Of era E7, with encoders of Qwen3-VL and Qwen3.5, see modrwkv_names.py
E7_NAME = re.compile(
    r"(model\.)?proj\.(main|deepstack|seed_\w+|rwkv_q_projs?|memory_norms)\..*"
    r"|encoder\.encoder\..*|(model\.)?encoder\.(model\.)?(visual\.|patch_embed\.|blocks\.|merger\.).*"
)
_TOO_OLD = re.compile(r"modality\.(model|adapter)\..*")
# Depends on who saved the encoder: the tower alone, or inside its model
_TOWER_NAME = re.compile(r"(?:model\.)?(?:vision_model\.)?(.*)")
# Our name of WorldRWKV's VlProj, which holds a norm that it never used, and its kernel
VL_PROJ = "gelu_mlp"
_VL_PROJ_KERNEL = 6
# Patches in a row that WorldRWKV's ModalityProjector makes one token of, 4 by 4
_SHUFFLE_FACTOR = 4


@dataclass(frozen=True)
class Family:
    """How a family names its parts, and the eras that did so.

    Attributes:
        name: What to call it in a message.
        text: Prefix of the text model's tensors; the empty one takes whatever has no other.
        projector: Prefix of the projector's.
        encoder: Prefix of the encoder's.
        eras: Eras that used these names.
        is_fla: Whether the text model's tensors have the names and shapes of the fla format.
    """

    name: str
    text: str
    projector: str
    encoder: str
    eras: tuple[str, ...]
    is_fla: bool = False


_FAMILIES = (
    Family("modality.*", "", "modality.world_encoder.adapter.", "modality.world_encoder.", ("E1", "E2", "E3")),
    Family("llm.* and proj.*", "llm.", "proj.", "encoder.", ("E4", "E5", "E6")),
    Family("model.llm.* and model.proj.*", "model.llm.", "model.proj.", "model.encoder.", ("E5", "E6"), is_fla=True),
)


@dataclass(frozen=True)
class Projector:
    """A projector, as its tensors tell.

    Attributes:
        type: "speech", or `vision_projector_type` of the configuration.
        encoder_dim: Width of the encoder's features.
        width: Of its MLP.
        kernel_size: Of the convolution over features, `None` without one.
        names: Name of each tensor in our model, by its name in the file; those that nothing uses are left out.
    """

    type: str
    encoder_dim: int
    width: int
    kernel_size: int | None
    names: dict[str, str]

    @property
    def modality(self) -> str:
        return "audio" if self.type == "speech" else "vision"


@dataclass(frozen=True)
class Parts:
    """The tensors of a checkpoint by part.

    Attributes:
        family: How they are named.
        text: Name in the text model's own format, BlinkDL's or fla's, of each of its tensors in the file.
        projector: Names of the projector's tensors in the file.
        encoder: Name inside the tower of each of the encoder's tensors in the file; often there are none.
    """

    family: Family
    text: dict[str, str]
    projector: list[str]
    encoder: dict[str, str]


def family_of(names: Iterable[str]) -> Family | None:
    """The family of a checkpoint's names; `None` if it is none of WorldRWKV's eras.

    Raises:
        ValueError: If it is of an era that is not supported, or of E7, which `convert_modrwkv` converts.
    """
    names = list(names)
    reasons = ((E7_NAME, "E7, which convert_modrwkv converts"), (_TOO_OLD, "E0, which is not supported"))
    for pattern, reason in reasons:
        found = next((name for name in names if pattern.fullmatch(name)), None)
        is_ours = any(name.startswith(("llm.", "model.llm.", "modality.", "blocks.", "proj.")) for name in names)
        if found is not None and is_ours:
            raise ValueError(f"a WorldRWKV checkpoint of era {reason} (it holds the tensor {found})")
    for family in _FAMILIES:
        marks = (family.text,) if family.text else (family.projector, family.encoder)
        if any(name.startswith(marks) for name in names):
            return family
    return None


def split_parts(names: Iterable[str], family: Family) -> Parts:
    """Sorts the tensors of a checkpoint by part.

    Raises:
        ValueError: If one belongs to no part.
    """
    text, projector, encoder = {}, [], {}
    for name in names:
        if name.startswith(family.projector):
            projector.append(name)
        elif name.startswith(family.encoder):
            encoder[name] = _TOWER_NAME.fullmatch(name.removeprefix(family.encoder))[1]
        elif family.is_fla and name.startswith(family.text):
            text[name] = "model." + name.removeprefix(family.text)
        elif name.startswith(family.text) or (family.is_fla and name == "lm_head.weight"):
            text[name] = name.removeprefix(family.text)
        else:
            raise ValueError(f"the tensor {name} belongs neither to {family.name} nor to an encoder")
    if not projector:
        raise ValueError(f"the projector is missing: no tensor is called {family.projector}*")
    return Parts(family, text, projector, encoder)


def read_projector(shapes: Mapping[str, Shape], prefix: str, hidden_size: int) -> Projector:
    """The projector of a checkpoint.

    Args:
        shapes: Shapes of its tensors by their names in the file.
        prefix: What those begin with.
        hidden_size: Width of the text model.

    Raises:
        ValueError: If it is unknown, or a tensor is missing, unknown or of another shape.
    """
    shapes = {name.removeprefix(prefix): tuple(shape) for name, shape in shapes.items()}
    if "pre_norm.weight" in shapes and "conv.bias" in shapes:
        raise ValueError(
            f"holds projectors of both modalities, expected one: {prefix}pre_norm.weight is of vision, "
            f"{prefix}conv.bias of speech"
        )
    if "proj.weight" in shapes:
        projector, expected = _pixel_shuffle(shapes, prefix, hidden_size)
    elif "conv.bias" in shapes:
        projector, expected = _speech(shapes, prefix, hidden_size)
    else:
        projector, expected = _vision_mlp(shapes, prefix, hidden_size)
    check_exactly(shapes, expected, prefix, "a projector")
    return projector


def possible_eras(parts: Parts, projector: Projector, hidden_size: int) -> tuple[str, ...]:
    """The eras that a checkpoint can be of by its names and shapes, the likeliest first."""
    if parts.family.name == "modality.*":
        if projector.type == "speech":
            return ("E1", "E2", "E3")
        # Projectors became twice as wide in E2's last days; most published files are of E1
        return ("E1", "E2") if projector.width == 2 * hidden_size else ("E3", "E2")
    if projector.type in ("pixel_shuffle", VL_PROJ):
        return ("E6",)
    if parts.encoder and not parts.family.is_fla:
        return ("E6", "E5", "E4")
    return ("E5", "E6") if parts.family.is_fla else ("E5", "E4", "E6")


def _dimension(shapes: Mapping[str, Shape], name: str, axis: int, dims: int, prefix: str) -> int:
    if name not in shapes:
        raise ValueError(f"the tensor {prefix}{name} is missing")
    if len(shapes[name]) != dims:
        raise ValueError(f"{prefix}{name} has the shape {shapes[name]}, expected {dims} dimensions")
    return shapes[name][axis]


def _pixel_shuffle(shapes: Mapping[str, Shape], prefix: str, hidden: int) -> tuple[Projector, dict[str, Shape]]:
    features = _dimension(shapes, "proj.weight", 1, 2, prefix)
    encoder_dim = features // _SHUFFLE_FACTOR**2
    names = {f"{prefix}proj.weight": "linear.weight"}
    projector = Projector("pixel_shuffle", encoder_dim, features, None, names)
    return projector, {"proj.weight": (hidden, encoder_dim * _SHUFFLE_FACTOR**2)}


def _speech(shapes: Mapping[str, Shape], prefix: str, hidden: int) -> tuple[Projector, dict[str, Shape]]:
    width, encoder_dim, kernel = (_dimension(shapes, "conv.weight", axis, 3, prefix) for axis in range(3))
    names = {f"{prefix}conv.{end}": f"conv.{end}" for end in ("weight", "bias")}
    names |= _mlp_names(prefix, "proj")
    expected = {"conv.weight": (width, encoder_dim, kernel), "conv.bias": (width,)}
    expected |= _mlp_shapes("proj", width, width, hidden)
    return Projector("speech", encoder_dim, width, kernel, names), expected


def _vision_mlp(shapes: Mapping[str, Shape], prefix: str, hidden: int) -> tuple[Projector, dict[str, Shape]]:
    mlp = "mlp" if any(name.startswith("mlp.") for name in shapes) else "proj"
    width, encoder_dim = (_dimension(shapes, f"{mlp}.0.weight", axis, 2, prefix) for axis in range(2))
    expected = _mlp_shapes(mlp, encoder_dim, width, hidden)
    expected |= {"pre_norm.weight": (hidden,), "pre_norm.bias": (hidden,)}
    names, kernel = _mlp_names(prefix, mlp), None
    if "conv.weight" in shapes:
        kernel = _dimension(shapes, "conv.weight", 2, 3, prefix)
        expected["conv.weight"] = (encoder_dim, encoder_dim, kernel)
        names[f"{prefix}conv.weight"] = "conv.weight"
    # Before E4, where the MLP had another name, there was none
    if kernel == _VL_PROJ_KERNEL and mlp == "mlp":
        return Projector(VL_PROJ, encoder_dim, width, kernel, names), expected
    names |= {f"{prefix}pre_norm.{end}": f"norm.{end}" for end in ("weight", "bias")}
    return Projector("mlp", encoder_dim, width, kernel, names), expected


def _mlp_names(prefix: str, mlp: str) -> dict[str, str]:
    layers = {"0": "linear_1", "2": "linear_2"}
    ends = ("weight", "bias")
    return {f"{prefix}{mlp}.{layer}.{end}": f"{ours}.{end}" for layer, ours in layers.items() for end in ends}


def _mlp_shapes(mlp: str, inputs: int, width: int, outputs: int) -> dict[str, Shape]:
    return {
        f"{mlp}.0.weight": (width, inputs),
        f"{mlp}.0.bias": (width,),
        f"{mlp}.2.weight": (outputs, width),
        f"{mlp}.2.bias": (outputs,),
    }
