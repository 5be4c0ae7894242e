# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of era E7 with random weights, as mod-rwkv trains them and as mod-rwkv and torchtitan export them, and a
plain reading of what those compute.

Names, layers and equations are written down here from the published code, apart from the library. The vision encoders
are transformers' own, tiny and random.
"""

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from transformers import PreTrainedModel, Qwen3_5VisionModel, Qwen3VLVisionConfig, Qwen3VLVisionModel
from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5VisionConfig

from .blinkdl import fla_state_dict, random_checkpoint
from .composites import randomize
from .worldrwkv import SIZES, text_logits


TEXT_SIZES = replace(SIZES, layers=3)
HIDDEN, HEAD_SIZE = TEXT_SIZES.hidden, TEXT_SIZES.head_size
PATCH, MERGE, FRAMES = 16, 2, 2
VISION_START, VISION_END, IMAGE_PAD = 65530, 65531, 65532
# Of training files, whose dialect is mod-rwkv: 64 to 4096 tokens a picture
FILE_SIZE = {"shortest_edge": 65_536, "longest_edge": 4_194_304}
# Of the exported folders, which say so themselves: a few tokens
SMALL = {"shortest_edge": 4 * 32 * 32, "longest_edge": 8 * 32 * 32}
SMALL_SQUARES = {"shortest_edge": 6 * 64 * 64, "longest_edge": 12 * 64 * 64}


@dataclass(frozen=True)
class Kind:
    """A kind of checkpoint.

    Attributes:
        dialect: "mod-rwkv", "torchtitan-first" or "torchtitan".
        is_folder: Whether it is an exported folder, not a training file.
        encoder: "qwen3_vl" or "qwen3_5".
        features: Width of the encoder's features.
        deepstack: Layers of the encoder whose features have projectors.
        norm: Of the projectors.
        ffn: Of the projectors.
        has_encoder: Whether the encoder's weights are inside.
        attends: Whether the projector attends to patches; then whether all layers share its matrices.
    """

    dialect: str
    is_folder: bool = True
    encoder: str = "qwen3_vl"
    features: int = HIDDEN
    deepstack: tuple[int, ...] = ()
    norm: str = "layernorm"
    ffn: str = "relu"
    has_encoder: bool = True
    attends: str | None = None  # "tied" or "untied"

    @property
    def size(self) -> dict[str, int]:
        """Limits of a picture in pixels."""
        if not self.is_folder:
            return FILE_SIZE
        return SMALL_SQUARES if self.attends else SMALL


# Of projectors that attend to patches
VISION_LAYERS, TEXT_LAYERS, HEADS, KEY_VALUE_HEADS, SQUARE = (0, 1), (0, 2), 4, 2, 2
PATCH_DIM = 32

KINDS = {
    "mod-rwkv, file": Kind("mod-rwkv", is_folder=False, encoder="qwen3_5", features=48),
    "mod-rwkv, folder": Kind("mod-rwkv", encoder="qwen3_5"),
    "torchtitan-first": Kind("torchtitan-first"),
    "torchtitan": Kind("torchtitan", features=48, deepstack=(0, 2)),
    "torchtitan, SwiGLU and RMSNorm": Kind("torchtitan", features=48, ffn="swiglu", norm="rmsnorm"),
    "torchtitan, GELU": Kind("torchtitan", features=48, ffn="gelu"),
    "torchtitan, attention": Kind("torchtitan", features=48, attends="tied"),
    "torchtitan, attention, untied": Kind("torchtitan", features=48, attends="untied"),
}


# --- Checkpoints -----------------------------------------------------------------------------------------------------


def random_encoder(kind: Kind) -> PreTrainedModel:
    options = {
        "depth": 3,
        "hidden_size": PATCH_DIM,
        "intermediate_size": 40,
        "num_heads": 2,
        "out_hidden_size": kind.features,
        "num_position_embeddings": 36,
    }
    torch.manual_seed(3)
    if kind.encoder == "qwen3_5":
        return randomize(Qwen3_5VisionModel(Qwen3_5VisionConfig(**options)), seed=3).eval()
    config = Qwen3VLVisionConfig(**options, deepstack_visual_indexes=list(kind.deepstack))
    return randomize(Qwen3VLVisionModel(config), seed=3).eval()


def random_projectors(kind: Kind) -> dict[str, torch.Tensor]:
    """All projectors by the original's own names."""
    generator = torch.Generator().manual_seed(5)

    def normal(*shape, mean=0.0, scale=1.0):
        return mean + scale * torch.randn(*shape, generator=generator)

    if kind.attends:
        return _random_attention(kind, normal)
    width, tensors = 4 * HIDDEN, {}
    streams = ["main."] if kind.dialect == "torchtitan" else [""]
    for stream in streams + [f"deepstack.{index}." for index in range(len(kind.deepstack))]:
        layers = {"w1": (width, kind.features), "w2": (HIDDEN, width), "w3": (width, kind.features)}
        if kind.ffn != "swiglu":
            layers = {"0": layers["w1"], "2": layers["w2"]}
        for name, (outputs, inputs) in layers.items():
            tensors[f"{stream}mlp.{name}.weight"] = normal(outputs, inputs, scale=inputs**-0.5)
            tensors[f"{stream}mlp.{name}.bias"] = normal(outputs, scale=0.2)
        tensors[f"{stream}pre_norm.weight"] = normal(HIDDEN, mean=1, scale=0.2)
        if kind.norm == "layernorm":
            tensors[f"{stream}pre_norm.bias"] = normal(HIDDEN, scale=0.2)
    return tensors


def _random_attention(kind: Kind, normal) -> dict[str, torch.Tensor]:
    depth, key_value_dim = len(TEXT_LAYERS), PATCH_DIM // HEADS * KEY_VALUE_HEADS
    norms = {"seed_query_norm": kind.features, "seed_output_norm": PATCH_DIM}
    norms |= {f"query_norms.{index}": HIDDEN for index in range(depth)}
    norms |= {f"memory_norms.{index}": PATCH_DIM for index in range(depth + 1)}
    matrices = {"seed_q_proj": (PATCH_DIM, kind.features)}
    matrices |= {f"query_gate_projs.{index}": (HEADS, HIDDEN) for index in range(depth)}
    shapes = {"rwkv_q_proj": (PATCH_DIM, HIDDEN), "o_proj": (HIDDEN, PATCH_DIM)}
    shapes |= dict.fromkeys(("k_proj", "v_proj"), (key_value_dim, PATCH_DIM))
    for name, shape in shapes.items():
        if kind.attends == "tied":
            matrices[name] = shape
        else:
            matrices |= {f"{name}s.{index}": shape for index in range(depth + (name != "rwkv_q_proj"))}
    tensors = {f"{name}.weight": normal(*shape, scale=2 * shape[1] ** -0.5) for name, shape in matrices.items()}
    for name, size in norms.items():
        tensors |= {f"{name}.weight": normal(size, mean=1, scale=0.2), f"{name}.bias": normal(size, scale=0.2)}
    return tensors


def random_text() -> dict[str, torch.Tensor]:
    """A text model by BlinkDL's names, which answers with none of the special tokens."""
    text = random_checkpoint(TEXT_SIZES)
    text["head.weight"][VISION_START:] = 0
    text["head.weight"][24] = 0
    return text


def assemble(kind: Kind, text, projectors, encoder) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint by their names in it."""
    encoder = encoder if kind.has_encoder else {}
    if not kind.is_folder:
        parts = {"llm.": text, "proj.": projectors, "encoder.encoder.": encoder}
        return {prefix + name: tensor for prefix, part in parts.items() for name, tensor in part.items()}
    fla = {name.replace("model.", "model.llm.", 1): tensor for name, tensor in fla_state_dict(text).items()}
    fla |= {f"model.proj.{name}": tensor for name, tensor in projectors.items()}
    return fla | {f"model.encoder.{name}": tensor for name, tensor in encoder.items()}


def raw_config(kind: Kind, encoder: PreTrainedModel) -> dict:
    """The `config.json` of an exported folder; those of mod-rwkv and the first of torchtitan say little."""
    projector = {"encoder_dim": kind.features, "project_dim": HIDDEN, "hidden_dim": None}
    if kind.dialect == "torchtitan":
        projector |= {"projector_type": "visual", "num_deepstack": len(kind.deepstack), "kind": "mlp"}
        projector |= {"norm": kind.norm, "ffn": kind.ffn}
    if kind.attends:
        projector |= {"kind": "cross_attn", "vision_dim": PATCH_DIM, "num_deepstack": len(TEXT_LAYERS)}
        projector |= {"visual_layer_indices": VISION_LAYERS, "language_layer_indices": TEXT_LAYERS}
        projector |= {"num_query_heads": HEADS, "num_key_value_heads": KEY_VALUE_HEADS, "extra_merge_size": SQUARE}
        projector |= {"tie_qkvo": kind.attends == "tied", "spatial_merge_size": MERGE}
    vision = encoder.config.to_dict() | {"model_type": kind.encoder}
    return {
        "architectures": ["RWKV7VLForConditionalGeneration"],
        "model_type": "modrwkv",
        "text_config": {
            "model_type": "rwkv7",
            "norm_eps": 1e-5,
            "head_dim": HEAD_SIZE,
            "max_position_embeddings": 8192,
        },
        "vision_config": vision,
        "projector_config": projector,
        "image_token_id": IMAGE_PAD,
    }


def write_source(folder: Path, kind: Kind, tensors: dict[str, torch.Tensor], encoder: PreTrainedModel) -> Path:
    """The training file or the exported folder, under `folder`."""
    if not kind.is_folder:
        torch.save(tensors, folder / "rwkv-step-2000.pth")
        return folder / "rwkv-step-2000.pth"
    source = folder / "exported"
    source.mkdir()
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, source / "model.safetensors", {"format": "pt"})
    (source / "config.json").write_text(json.dumps(raw_config(kind, encoder)))
    (source / "preprocessor_config.json").write_text(json.dumps({"size": kind.size, "merge_size": MERGE}))
    template = "{{ '\\x16Assistant: <think></think>' }}" if kind.dialect == "mod-rwkv" else "{{ '<image>' }}"
    (source / "chat_template.jinja").write_text(template)
    return source


# --- What the originals compute --------------------------------------------------------------------------------------


def fit(width: int, height: int, size: dict[str, int], side: int) -> tuple[int, int]:
    """(rows, columns) of patches that a picture is resized to: whole squares of `side` pixels, within the limits."""
    rows, columns = (round(length / side) * side for length in (height, width))
    if rows * columns > size["longest_edge"]:
        scale = math.sqrt(height * width / size["longest_edge"])
        rows, columns = (max(side, math.floor(length / scale / side) * side) for length in (height, width))
    elif rows * columns < size["shortest_edge"]:
        scale = math.sqrt(size["shortest_edge"] / (height * width))
        rows, columns = (math.ceil(length * scale / side) * side for length in (height, width))
    return rows // PATCH, columns // PATCH


def read_patches(image: Image.Image, size: dict[str, int], attends: bool = False) -> tuple[torch.Tensor, list[int]]:
    """(patches, channels * frames * 16 * 16) and the grid of a picture: square by square of 2 by 2, row by row."""
    rows, columns = fit(*image.size, size, PATCH * MERGE * (SQUARE if attends else 1))
    resized = image.convert("RGB").resize((columns * PATCH, rows * PATCH), Image.Resampling.BICUBIC)
    values = (np.asarray(resized, dtype=np.float32) / 255 - 0.5) / 0.5
    patches = []
    for top in range(0, rows, MERGE):
        for left in range(0, columns, MERGE):
            for row, column in ((top + i, left + j) for i in range(MERGE) for j in range(MERGE)):
                patch = values[row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH]
                frames = np.stack([patch.transpose(2, 0, 1)] * FRAMES, axis=1)  # (channels, frames, rows, columns)
                patches.append(frames.ravel())
    return torch.from_numpy(np.stack(patches)), [1, rows, columns]


def project(kind: Kind, w: dict[str, torch.Tensor], stream: str, x: torch.Tensor) -> torch.Tensor:
    """(tokens, hidden) of features (tokens, dim), by the projector whose names begin with `stream`."""
    w = {name.removeprefix(stream): tensor for name, tensor in w.items() if name.startswith(stream)}

    def mlp(x):
        if kind.ffn == "swiglu":
            first, gate = (F.linear(x, w[f"mlp.{n}.weight"], w[f"mlp.{n}.bias"]) for n in ("w1", "w3"))
            return F.linear(F.silu(first) * gate, w["mlp.w2.weight"], w["mlp.w2.bias"])
        act = F.relu if kind.ffn == "relu" else F.gelu
        return F.linear(act(F.linear(x, w["mlp.0.weight"], w["mlp.0.bias"])), w["mlp.2.weight"], w["mlp.2.bias"])

    def norm(x):
        if kind.norm == "rmsnorm":
            return x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * w["pre_norm.weight"]
        return F.layer_norm(x, x.shape[-1:], w["pre_norm.weight"], w["pre_norm.bias"], eps=1e-5)

    if kind.dialect == "torchtitan-first":
        return x + mlp(norm(x))
    y = mlp(x)
    return y + norm(y)


def norm_of(w: dict[str, torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-5)


def matrix_of(w: dict[str, torch.Tensor], name: str, depth: int) -> torch.Tensor:
    """A matrix that all depths share, or that of one depth."""
    return w[f"{name}.weight"] if f"{name}.weight" in w else w[f"{name}s.{depth}.weight"]


def attention_to(w, depth: int, query: torch.Tensor, patches: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
    """What one query (channels) reads of patches (patches, channels), head by head, each times its gate."""
    size = PATCH_DIM // HEADS
    patches = norm_of(w, f"memory_norms.{depth}", patches)
    keys, values = (patches @ matrix_of(w, name, depth).T for name in ("k_proj", "v_proj"))
    heads = []
    for head in range(HEADS):
        shared = head * KEY_VALUE_HEADS // HEADS
        there = slice(shared * size, (shared + 1) * size)
        scores = torch.softmax(keys[:, there] @ query[head * size : (head + 1) * size] / math.sqrt(size), dim=0)
        heads.append(gates[head] * (scores @ values[:, there]))
    return torch.cat(heads)


def pack_tokens(w, output, grid: list[int]) -> torch.Tensor:
    """(tokens, hidden) of a picture: a token for 2 by 2 merged features, that is 4 by 4 patches."""
    rows, columns = grid[1] // MERGE, grid[2] // MERGE
    features = output.pooler_output.view(rows, columns, -1)
    patches = output.last_hidden_state.view(rows, columns, MERGE * MERGE, -1)
    quarter, tokens = PATCH_DIM // 4, []
    height, width = rows // SQUARE, columns // SQUARE
    for i in range(height):
        for j in range(width):
            there = slice(SQUARE * i, SQUARE * i + SQUARE), slice(SQUARE * j, SQUARE * j + SQUARE)
            seed = features[there].mean((0, 1))  # what bilinear interpolation to half the size is
            query = w["seed_q_proj.weight"] @ norm_of(w, "seed_query_norm", seed)
            waves = []
            for place, length in ((i, height), (j, width)):
                turns = [
                    place / max(length - 1, 1) * math.exp(-math.log(10_000) * n / (quarter - 1))
                    for n in range(quarter)
                ]
                waves += [math.sin(2 * math.pi * turn) for turn in turns]
                waves += [math.cos(2 * math.pi * turn) for turn in turns]
            query = query + torch.tensor(waves)
            square = patches[there].reshape(-1, PATCH_DIM)
            read = attention_to(w, len(TEXT_LAYERS), query, square, torch.ones(HEADS))
            tokens.append(matrix_of(w, "o_proj", len(TEXT_LAYERS)) @ norm_of(w, "seed_output_norm", query + read))
    return torch.stack(tokens)


def read_pictures(w, depth: int, places: list[list[int]], patches: list[torch.Tensor], x: torch.Tensor):
    """(time, hidden) after a layer whose tokens of every picture, at `places`, attend to its patches."""
    x = x.clone()
    for positions, memory in zip(places, patches, strict=True):
        for position in positions:
            token = norm_of(w, f"query_norms.{depth}", x[position])
            gates = torch.sigmoid(w[f"query_gate_projs.{depth}.weight"] @ token)
            read = attention_to(w, depth, matrix_of(w, "rwkv_q_proj", depth) @ token, memory, gates)
            x[position] += matrix_of(w, "o_proj", depth) @ read
    return x


def plain_logits(
    kind: Kind,
    text: dict[str, torch.Tensor],
    projectors: dict[str, torch.Tensor],
    encoder: PreTrainedModel,
    ids: Sequence[int],
    pictures: list[tuple[torch.Tensor, list[int]]],
) -> torch.Tensor:
    """Logits (time, vocab) of ids with placeholders, and of pictures as [`read_patches`] gives them, one by one."""
    places = [position for position, token in enumerate(ids) if token == IMAGE_PAD]
    x, after = text["emb.weight"][list(ids)].clone(), {}
    # Of the blocks' outputs the first is what enters them
    seen = [encoder(p, grid_thw=torch.tensor([grid]), output_hidden_states=True) for p, grid in pictures]
    if kind.attends and seen:
        tokens = [pack_tokens(projectors, output, grid) for output, (_, grid) in zip(seen, pictures, strict=True)]
        x[places] = torch.cat(tokens)
        ends = np.cumsum([0, *map(len, tokens)])
        by_picture = [places[start:end] for start, end in itertools.pairwise(ends)]
        for depth, (vision_layer, text_layer) in enumerate(zip(VISION_LAYERS, TEXT_LAYERS, strict=True)):
            patches = [output.hidden_states[vision_layer + 1] for output in seen]
            after[text_layer] = partial(read_pictures, projectors, depth, by_picture, patches)
    elif seen:
        main = "main." if kind.dialect == "torchtitan" else ""
        x[places] = torch.cat([project(kind, projectors, main, output.pooler_output) for output in seen])
        for index in range(len(kind.deepstack)):
            features = torch.cat([output.deepstack_features[index] for output in seen])
            added = torch.zeros_like(x)
            added[places] = project(kind, projectors, f"deepstack.{index}.", features)
            after[index] = partial(torch.add, added)
    # BlinkDL's files have one epsilon whatever the size of heads, the fla format that of a head of this size
    return text_logits(text, x, after, 1e-5 * HEAD_SIZE if kind.is_folder else 64e-5)
