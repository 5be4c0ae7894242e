# Copyright 2026 The rwkv7-world authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Configuration of the RWKV-7 text model, with the field names of the fla format (`fla-hub/rwkv7-*`)."""

import math

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig
from transformers.utils import auto_docstring, logging

from .auto_classes import AUTO_CLASSES
from .other_layouts import to_our_fields
from .source_code import WritesItsCode
from .tested_versions import warn_of_untested_transformers


warn_of_untested_transformers()  # here, since every model and all saved code imports this

logger = logging.get_logger(__name__)

LOW_RANK_STEP = 32


def _round_to_low_rank_step(width: float) -> int:
    return max(LOW_RANK_STEP, round(width / LOW_RANK_STEP) * LOW_RANK_STEP)


def world_low_rank_dims(hidden_size: int) -> dict[str, int]:
    """Low-rank widths of the released World checkpoints as a function of the hidden size.

    The published 0.4B model (`hidden_size=1024`) has a gate width of 128, where the formula would give 160.
    Checkpoints are always read by their tensor shapes; this is only the default of a new model.

    Args:
        hidden_size (`int`): Width of the residual stream.

    Returns:
        `dict[str, int]`: The four `*_low_rank_dim` fields of [`RWKV7Config`].
    """
    gate = 128 if hidden_size == 1024 else _round_to_low_rank_step(0.6 * hidden_size**0.8)
    return {
        "decay_low_rank_dim": _round_to_low_rank_step(1.8 * math.sqrt(hidden_size)),
        "a_low_rank_dim": _round_to_low_rank_step(1.8 * math.sqrt(hidden_size)),
        "v_low_rank_dim": _round_to_low_rank_step(1.3 * math.sqrt(hidden_size)),
        "gate_low_rank_dim": gate,
    }


@auto_docstring(checkpoint="fla-hub/rwkv7-0.4B-world")
@strict
class RWKV7Config(WritesItsCode, PreTrainedConfig):
    r"""
    hidden_ratio (`float`, *optional*, defaults to 4):
        Width of the channel mix as a multiple of `hidden_size`, used when `intermediate_size` is `None`.
    head_dim (`int`, *optional*, defaults to 64):
        Size of one head; every head holds a state of `head_dim` x `head_dim` float32 numbers. `None` is
        `hidden_size // num_heads`.
    num_heads (`int`, *optional*):
        Number of heads, always `hidden_size // head_dim`.
    decay_low_rank_dim (`int`, *optional*):
        Width of the low-rank map that gives the decay `w`. `None` takes the width of the released models of this size.
    gate_low_rank_dim (`int`, *optional*):
        Width of the low-rank map that gives the output gate `g`.
    a_low_rank_dim (`int`, *optional*):
        Width of the low-rank map that gives the in-context learning rate `a`.
    v_low_rank_dim (`int`, *optional*):
        Width of the low-rank map that mixes the value of layer 0 into the later layers. Layer 0 has none.
    value_dim (`int` or `list[int]`, *optional*):
        Width of the values, per layer in the fla format. Only `hidden_size` is supported.
    norm_first (`bool`, *optional*, defaults to `True`):
        Whether the embeddings pass a LayerNorm (`pre_norm`, called `ln0` in RWKV-LM) before block 0.
    norm_bias (`bool`, *optional*, defaults to `True`):
        Whether the LayerNorms have a bias.
    norm_eps (`float`, *optional*, defaults to 1e-05):
        Epsilon of the LayerNorms.
    group_norm_eps (`float`, *optional*):
        Epsilon of the GroupNorm after the recurrence. `None` is `head_dim * norm_eps`, as in fla; RWKV-LM has 64e-5
        for every head size.
    attn (`dict`, *optional*):
        Softmax-attention layers of fla's hybrid models, which are not supported: must be `None`.
    learned_initial_state (`bool`, *optional*, defaults to `False`):
        Whether sequences start from a learned state of the recurrence, as state tuning makes it, in place of zeros.
    learned_initial_tokens (`bool`, *optional*, defaults to `False`):
        Whether the token shifts start from learned vectors in place of zeros.
    number_of_conv_states (`int`, *optional*, defaults to 2):
        One-token shift states of a layer in the cache: time mix and channel mix. In RWKV-7b a third, of the query.
    deep_embed_dim (`int`, *optional*):
        Side of the square matrix that every token has in every channel mix (DeepEmbed, RWKV-7a; 32 in the published
        models). `None` is plain RWKV-7.
    deep_embed_attn_dim (`int`, *optional*):
        Width of queries and keys of the attention beside every time mix (DeepEmbedAttention or DEA, RWKV-7b; 256 in
        the published model). Needs `deep_embed_dim`; `None` is a model without.
    deep_embed_attn_low_rank_dim (`int`, *optional*):
        Width of the low-rank maps that keys and values of that attention are made by; two such vectors of every token
        are kept. `None` is 32, as in the published model, if there is such an attention.
    blinkdl_row_vectors (`list[str]`, *optional*):
        Vectors of DeepEmbed that are (1, 1, size) in the `.pth` file that the model came from, and not (size,), such
        as `"ffn.s0"`. Only the way back to such a file reads it.

    Example:

    ```python
    >>> from rwkv7_world import RWKV7Config, RWKV7ForCausalLM

    >>> configuration = RWKV7Config(hidden_size=768, num_hidden_layers=12)
    >>> model = RWKV7ForCausalLM(configuration)
    ```"""

    model_type = "rwkv7"
    auto_classes = AUTO_CLASSES[model_type]
    base_config_key = "text_config"
    keys_to_ignore_at_inference = ["cache", "past_key_values"]
    attribute_map = {"num_attention_heads": "num_heads"}
    # The recurrence and its per-channel parameters stay whole on every device; the matrices around it are shared out
    base_model_tp_plan = {
        "embeddings": "embedding_rowwise",  # as the head, which may be tied to them
        "layers.*.attn.r_proj": "colwise_gather_output",
        "layers.*.attn.k_proj": "colwise_gather_output",
        "layers.*.attn.v_proj": "colwise_gather_output",
        "layers.*.attn.o_proj": "colwise_gather_output",
        "layers.*.ffn.key": "colwise",
        "layers.*.ffn.value": "rowwise",
    }
    base_model_pp_plan = {
        "embeddings": (["input_ids"], ["inputs_embeds"]),
        "layers": (["hidden_states", "v_first"], ["hidden_states", "v_first"]),
        "norm": (["hidden_states"], ["hidden_states"]),
    }

    vocab_size: int = 65536
    hidden_size: int = 2048
    hidden_ratio: int | float | None = 4
    intermediate_size: int | None = None
    num_hidden_layers: int = 24
    head_dim: int | None = 64
    num_heads: int | None = None
    decay_low_rank_dim: int | None = None
    gate_low_rank_dim: int | None = None
    a_low_rank_dim: int | None = None
    v_low_rank_dim: int | None = None
    value_dim: int | list[int] | None = None
    hidden_act: str = "sqrelu"
    max_position_embeddings: int = 4096
    norm_first: bool = True
    norm_bias: bool = True
    norm_eps: float = 1e-5
    group_norm_eps: float | None = None
    attn: dict | None = None
    initializer_range: float = 0.02
    use_cache: bool = True
    pad_token_id: int | None = 0
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 0
    tie_word_embeddings: bool = False
    learned_initial_state: bool = False
    learned_initial_tokens: bool = False
    number_of_conv_states: int = 2
    deep_embed_dim: int | None = None
    deep_embed_attn_dim: int | None = None
    deep_embed_attn_low_rank_dim: int | None = None
    blinkdl_row_vectors: list[str] | None = None
    layer_types: list[str] | None = None

    def __post_init__(self, **kwargs):
        for name, width in world_low_rank_dims(self.hidden_size).items():
            if getattr(self, name) is None:
                setattr(self, name, width)
        if self.intermediate_size is None:
            width = int(self.hidden_size * (self.hidden_ratio or 4))
            self.intermediate_size = LOW_RANK_STEP * math.ceil(width / LOW_RANK_STEP)
        if self.head_dim is None:
            self.head_dim = self.hidden_size // self.num_heads if self.num_heads else 64
        num_heads = self.hidden_size // self.head_dim
        if self.num_heads not in (None, num_heads):
            logger.warning_once(
                f"num_heads={self.num_heads} does not fit hidden_size={self.hidden_size} and "
                f"head_dim={self.head_dim}; using {num_heads}."
            )
        self.num_heads = num_heads
        if self.deep_embed_dim is not None:
            # The channels are multiplied by factors of all of them
            gathered = dict.fromkeys(("layers.*.ffn.key", "layers.*.ffn.value"), "colwise_gather_output")
            self.base_model_tp_plan = self.base_model_tp_plan | gathered
        if self.deep_embed_attn_dim is not None:
            self.number_of_conv_states = 3
            self.deep_embed_attn_low_rank_dim = self.deep_embed_attn_low_rank_dim or LOW_RANK_STEP
        if self.layer_types is None:
            self.layer_types = ["linear_attention"] * self.num_hidden_layers
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs):
        """As the base class does; a `config.json` of the official or the Goose layout becomes one of ours."""
        return super().from_dict(to_our_fields(config_dict), **kwargs)

    def validate_architecture(self):
        """Part of `@strict`-powered validation: refuses sizes that RWKV-7 cannot have."""
        if self.hidden_size % self.head_dim:
            raise ValueError(f"hidden_size={self.hidden_size} is not a multiple of head_dim={self.head_dim}.")
        if self.hidden_act not in ("sqrelu", "relu2"):
            raise ValueError(f"hidden_act={self.hidden_act!r}: RWKV-7 has only the squared ReLU, 'sqrelu' or 'relu2'.")
        if self.attn is not None:
            raise ValueError("attn is set: hybrid models with softmax-attention layers are not supported.")
        widths = self.value_dim if isinstance(self.value_dim, list) else [self.value_dim]
        if any(width not in (None, self.hidden_size) for width in widths):
            raise ValueError(f"value_dim={self.value_dim} must equal hidden_size={self.hidden_size}.")
        for name in ("deep_embed_dim", "deep_embed_attn_dim", "deep_embed_attn_low_rank_dim"):
            if (width := getattr(self, name)) is not None and width < 1:
                raise ValueError(f"{name}={width} must be positive.")
        if self.deep_embed_attn_dim is not None and self.deep_embed_dim is None:
            raise ValueError("deep_embed_attn_dim is set, but not deep_embed_dim: RWKV-7b has both.")


__all__ = ["RWKV7Config"]
