# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""What the checkpoints of WorldRWKV's era E7 call their tensors, and what names and shapes tell of one.

Training files have `llm.` (BlinkDL's names), `proj.` and `encoder.encoder.`; exported folders, of the class
`RWKV7VLForConditionalGeneration`, have `model.llm.` (fla's names), `model.proj.` and `model.encoder.`. Both may hold
the projector of any of three dialects.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig
from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5VisionConfig
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig

from .weights import Shape, check_exactly
from .worldrwkv_names import E7_NAME, Family


_ERAS = ("E7",)
FILE = Family("llm.* and proj.*", "llm.", "proj.", "encoder.encoder.", _ERAS)
FOLDER = Family("model.llm.* and model.proj.*", "model.llm.", "model.proj.", "model.encoder.", _ERAS, is_fla=True)

# Of an earlier projector that attended to patches, whose tensors beside this one are not known
_EARLIER_CROSS_ATTENTION = "main.in_norm."
# What an exported folder says of its projector, by default the first
_TOLD = {"kind": ("mlp", "cross_attn"), "norm": ("layernorm", "rmsnorm"), "ffn": ("relu", "gelu", "swiglu")}
# What an encoder's tensors do not tell, of the encoders that were used: heads by width, DeepStack's layers by depth
_HEADS = {768: 12, 1024: 16, 1152: 16}
_DEEPSTACK_LAYERS = {24: (5, 11, 17), 27: (8, 16, 24)}


@dataclass(frozen=True)
class Dialect:
    """What distinguishes a dialect.

    Attributes:
        projector_type: `vision_projector_type` of the configuration.
        template: Name of its chat template.
        max_pixels: Of a picture, where no folder tells it.
    """

    projector_type: str
    template: str
    max_pixels: int


MOD_RWKV, TORCHTITAN_FIRST, TORCHTITAN = "mod-rwkv", "torchtitan-first", "torchtitan"
DIALECTS = {
    MOD_RWKV: Dialect("mlp", "mod-rwkv", 4096 * 32 * 32),  # 4096 tokens of 32 by 32 pixels
    TORCHTITAN_FIRST: Dialect("pre_norm_mlp", "torchtitan", 2048 * 32 * 32),
    TORCHTITAN: Dialect("mlp", "torchtitan", 2048 * 32 * 32),
}
MIN_PIXELS = 64 * 32 * 32


@dataclass(frozen=True)
class Projectors:
    """The projectors of a checkpoint, as their tensors tell.

    Attributes:
        dialects: Those that they may be of, the likeliest first.
        encoder_dim: Width of the encoder's features.
        num_deepstack: Features of earlier layers of the encoder that have a projector.
        patch_dim: Width of the encoder's patches, if the projector attends to them, else `None`.
        options: Of our configuration.
        names: Name of each tensor in our model, by its name in the file.
    """

    dialects: tuple[str, ...]
    encoder_dim: int
    num_deepstack: int
    patch_dim: int | None
    options: dict[str, Any]
    names: dict[str, str]


def find_family(names: Iterable[str]) -> Family | None:
    """How the tensors of a checkpoint of E7 are named; `None` if its names are not of E7 alone."""
    names = list(names)
    family = family_of_any(names)
    return family if family is not None and any(map(E7_NAME.fullmatch, names)) else None


def family_of_any(names: Iterable[str]) -> Family | None:
    """Likewise of what is said to be of E7: a file without an encoder has the names of E4 too."""
    names = list(names)
    return next((family for family in (FOLDER, FILE) if any(n.startswith(family.text) for n in names)), None)


def read_projectors(
    shapes: Mapping[str, Shape], prefix: str, hidden_size: int, told: Mapping[str, Any] | None = None
) -> Projectors:
    """The projectors of a checkpoint.

    Args:
        shapes: Shapes of their tensors by the names in the file.
        prefix: What those begin with.
        hidden_size: Width of the text model.
        told: What an exported folder says of them, its `projector_config`.

    Raises:
        ValueError: If they are none that are known, or a tensor is missing, unknown or of another shape.
    """
    inner, told = {name.removeprefix(prefix): tuple(shape) for name, shape in shapes.items()}, told or {}
    if earlier := next((name for name in inner if name.startswith(_EARLIER_CROSS_ATTENTION)), None):
        what = "its projector is an earlier one that attends to patches (kind cross_attn), which is not supported"
        raise ValueError(f"{what}: it holds the tensor {prefix}{earlier}")
    for option, known in _TOLD.items():
        if (value := told.get(option, known[0])) not in known:
            raise ValueError(f"{option} of its projector is {value!r}, expected {' or '.join(known)}")
    if told.get("kind") == "cross_attn":
        return _token_packer(inner, prefix, hidden_size, told)
    if any(name.startswith("seed_") for name in inner):
        raise ValueError("its projector attends to patches (kind cross_attn): which, only an exported folder tells")
    return _mlps(inner, prefix, hidden_size, told)


def _mlps(inner: Mapping[str, Shape], prefix: str, hidden_size: int, told: Mapping[str, Any]) -> Projectors:
    later = any(name.startswith(("main.", "deepstack.")) for name in inner)
    layers = _count(r"deepstack\.(\d+)\.", inner)
    streams = {"main.": "vision_projector"} if later else {"": "vision_projector"}
    streams |= {f"deepstack.{index}.": f"deepstack_projectors.{index}" for index in range(layers)}
    first = next(iter(streams))
    has_gate = f"{first}mlp.w1.weight" in inner
    mlp = {"w1": "linear_1", "w3": "gate", "w2": "linear_2"} if has_gate else {"0": "linear_1", "2": "linear_2"}
    width, encoder_dim = _matrix(inner, f"{first}mlp.{next(iter(mlp))}.weight", prefix)
    norm = told.get("norm", "layernorm")
    ends = ("weight", "bias") if norm == "layernorm" else ("weight",)
    expected, names = {}, {}
    for stream, ours in streams.items():
        for layer, name in mlp.items():
            outputs, inputs = (hidden_size, width) if name == "linear_2" else (width, encoder_dim)
            expected |= {f"{stream}mlp.{layer}.weight": (outputs, inputs), f"{stream}mlp.{layer}.bias": (outputs,)}
            names |= {f"{prefix}{stream}mlp.{layer}.{end}": f"{ours}.{name}.{end}" for end in ("weight", "bias")}
        expected |= {f"{stream}pre_norm.{end}": (hidden_size,) for end in ends}
        names |= {f"{prefix}{stream}pre_norm.{end}": f"{ours}.norm.{end}" for end in ends}
    check_exactly(inner, expected, prefix, "a projector")
    # The first exports of torchtitan add features to tokens, so both are of one width
    dialects = (TORCHTITAN,) if later else (MOD_RWKV, TORCHTITAN_FIRST)[: 2 if encoder_dim == hidden_size else 1]
    options = {
        "vision_projector_hidden_size": width,
        "vision_projector_activation": "swiglu" if has_gate else told.get("ffn", "relu"),
        "vision_projector_norm": norm,
        "num_deepstack_projectors": layers,
    }
    return Projectors(dialects, encoder_dim, layers, None, options, names)


def _token_packer(inner: Mapping[str, Shape], prefix: str, hidden_size: int, told: Mapping[str, Any]) -> Projectors:
    """The projector that attends to patches; its heads and layers are in no shape."""
    layers, vision_layers = (list(told.get(f"{kind}_layer_indices") or ()) for kind in ("language", "visual"))
    heads, factor = told.get("num_query_heads") or 1, told.get("extra_merge_size", 1)
    key_value_heads = told.get("num_key_value_heads") or heads
    is_tied = told.get("tie_qkvo", True)
    counts = (heads, key_value_heads, factor)
    if not all(isinstance(number, int) for number in (*counts, *layers, *vision_layers)) or min(counts) < 1:
        raise ValueError(
            "heads, layers and extra_merge_size of its projector_config must be whole numbers, all but layers positive"
        )
    patch_dim, encoder_dim = _matrix(inner, "seed_q_proj.weight", prefix)
    key_value_dim = patch_dim // heads * key_value_heads
    norms = {"seed_query_norm": ("seed_query_norm", encoder_dim), "seed_output_norm": ("seed_output_norm", patch_dim)}
    norms |= {f"query_norms.{index}": (f"query_norms.{index}", hidden_size) for index in range(len(layers))}
    norms |= {f"memory_norms.{index}": (f"memory_norms.{index}", patch_dim) for index in range(len(layers) + 1)}
    matrices = {"seed_q_proj": ("seed_query_proj", (patch_dim, encoder_dim))}
    for index in range(len(layers)):
        matrices[f"query_gate_projs.{index}"] = f"query_gates.{index}", (heads, hidden_size)
    shared = {
        "rwkv_q_proj": ("query_projs", (patch_dim, hidden_size), len(layers)),
        "k_proj": ("key_projs", (key_value_dim, patch_dim), len(layers) + 1),
        "v_proj": ("value_projs", (key_value_dim, patch_dim), len(layers) + 1),
        "o_proj": ("output_projs", (hidden_size, patch_dim), len(layers) + 1),
    }
    for theirs, (ours, shape, count) in shared.items():
        for index in range(1 if is_tied else count):
            matrices[theirs if is_tied else f"{theirs}s.{index}"] = f"{ours}.{index}", shape
    expected = {f"{theirs}.{end}": (size,) for theirs, (_, size) in norms.items() for end in ("weight", "bias")}
    expected |= {f"{theirs}.weight": shape for theirs, (_, shape) in matrices.items()}
    check_exactly(inner, expected, prefix, "a projector that attends to patches")
    ours = {theirs: name for theirs, (name, _) in (norms | matrices).items()}
    names = {}
    for name in expected:
        stem, _, end = name.rpartition(".")
        names[f"{prefix}{name}"] = f"vision_projector.{ours[stem]}.{end}"
    options = {
        "vision_projector_type": "token_packer",
        "vision_projector_scale_factor": factor,
        "cross_attention_vision_layers": vision_layers,
        "cross_attention_text_layers": layers,
        "cross_attention_heads": heads,
        "cross_attention_key_value_heads": key_value_heads,
        "cross_attention_tied": is_tied,
    }
    return Projectors((TORCHTITAN,), encoder_dim, 0, patch_dim, options, names)


def encoder_config_from_shapes(shapes: Mapping[str, Shape], prefix: str) -> PreTrainedConfig:
    """The configuration of an encoder by the shapes of its tensors.

    Args:
        shapes: By name inside the encoder.
        prefix: Of their names in the file.

    Raises:
        ValueError: If a tensor is missing, or the encoder is not one that was used, of which heads and layers of the
            DeepStack are known.
    """

    def shape(name: str, dims: int) -> Shape:
        if name not in shapes:
            raise ValueError(f"the tensor {prefix}{name} is missing")
        if len(shapes[name]) != dims:
            raise ValueError(f"{prefix}{name} has the shape {shapes[name]}, expected {dims} dimensions")
        return shapes[name]

    width, channels, frames, patch_size, _ = shape("patch_embed.proj.weight", 5)
    depth = _count(r"blocks\.(\d+)\.", shapes)
    merged = shape("merger.linear_fc1.weight", 2)[1]
    deepstack = _count(r"deepstack_merger_list\.(\d+)\.", shapes)
    layers = _DEEPSTACK_LAYERS.get(depth, ()) if deepstack else ()
    if width not in _HEADS or len(layers) != deepstack:
        raise ValueError(
            f"its encoder of {depth} layers of {width} is not one whose heads and DeepStack are known: tell the "
            "encoder's configuration with --encoder"
        )
    config_class = Qwen3VLVisionConfig if deepstack else Qwen3_5VisionConfig
    options = {"deepstack_visual_indexes": list(layers)} if deepstack else {}
    return config_class(
        depth=depth,
        hidden_size=width,
        intermediate_size=shape("blocks.0.mlp.linear_fc1.weight", 2)[0],
        num_heads=_HEADS[width],
        in_channels=channels,
        patch_size=patch_size,
        spatial_merge_size=math.isqrt(merged // width),
        temporal_patch_size=frames,
        out_hidden_size=shape("merger.linear_fc2.weight", 2)[0],
        num_position_embeddings=shape("pos_embed.weight", 2)[0],
        **options,
    )


def _count(pattern: str, names: Iterable[str]) -> int:
    """One more than the largest index in names, but no more than there are names: beyond, some are missing."""
    names = list(names)
    largest = max((int(found[1]) for name in names if (found := re.match(pattern, name))), default=-1)
    return min(1 + largest, len(names))


def _matrix(shapes: Mapping[str, Shape], name: str, prefix: str) -> Shape:
    if name not in shapes:
        raise ValueError(f"the tensor {prefix}{name} is missing")
    if len(shapes[name]) != 2:
        raise ValueError(f"{prefix}{name} has the shape {shapes[name]}, expected 2 dimensions")
    return shapes[name]
