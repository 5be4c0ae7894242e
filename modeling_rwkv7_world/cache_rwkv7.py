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
"""The constant-size state of RWKV-7 as a transformers `Cache`, and what makes `generate` use it."""

import copy
import dataclasses
from functools import lru_cache
from typing import Any

import torch
from torch.utils import _pytree as pytree
from transformers import PreTrainedTokenizerFast
from transformers.cache_utils import Cache, DynamicCache, LinearAttentionLayer, StaticCache
from transformers.configuration_utils import PreTrainedConfig
from transformers.generation import GenerationMixin
from transformers.generation.utils import MULTIMODAL_INPUTS_TO_DROP_OUTSIDE_PREFILL
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from ..configuration.configuration_rwkv7 import RWKV7Config
from .cache_names import CACHE_NAME, returns_both_cache_names, takes_both_cache_names


TIME_MIX, CHANNEL_MIX = 0, 1  # indices of the two token-shift states of a layer
QUERY = 2  # and of a third in RWKV-7b
# What a layer of RWKV-7b keeps of tokens, (batch, tokens, rank), and of different tokens, (rows, size)
LOW_RANKS, TABLES = ("k_low_rank", "v_low_rank"), ("k_table", "v_table")

_NO_BACKWARD_PASS = -1  # in place of the number of one, to which `torch.utils.checkpoint` looks, too
CHECKPOINTED_STATE = (
    "A state cannot be continued while activations are checkpointed: a layer that is run again in the "
    "backward pass would read what it wrote itself. Leave out one of the two."
)

# In assisted decoding: reading few tokens twice costs less than one more forward pass, which reads all weights
MAX_TOKENS_READ_AGAIN = 8


@dataclasses.dataclass
class SeenTokens:
    """The tokens that an RWKV-7b model looks back at, for all layers.

    Attributes:
        rows: (batch, tokens) int64, where each token is in the tables of the layers.
        segments: (batch, tokens) int64, which sequence of its row it belongs to, from 1; 0 for padding.
        row_of_id: (vocabulary,) int64, where a token of an id is in the tables; -1 if it was not seen.
        is_plain: Whether there is neither padding nor a second sequence in any row, which spares looking for them.
    """

    rows: torch.Tensor
    segments: torch.Tensor
    row_of_id: torch.Tensor
    is_plain: bool = False

    def select(self, indices: torch.Tensor) -> "SeenTokens":
        """Of some rows of the batch."""
        indices = indices.to(self.rows.device)
        rows, segments = (x.index_select(0, indices) for x in (self.rows, self.segments))
        return dataclasses.replace(self, rows=rows, segments=segments)


class RWKV7ContextLayer(LinearAttentionLayer):
    """What a layer of RWKV-7b keeps: the states of RWKV-7, and of every token and every different token vectors.

    Attributes:
        context: By the names `LOW_RANKS` and `TABLES`; empty before the first token.
    """

    is_compileable = False  # it grows

    def __init__(self, number_of_states: int):
        super().__init__(number_of_states)
        self.context: dict[str, torch.Tensor] = {}

    def reset(self) -> None:
        """Back to the state before the first token."""
        super().reset()
        self.context = {}

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Keeps the rows `beam_idx` of the batch; tables are of all rows."""
        super().reorder_cache(beam_idx)
        for name in LOW_RANKS:
            if name in self.context:
                kept = self.context[name]
                self.context[name] = kept.index_select(0, beam_idx.to(kept.device))


class RWKV7Cache(Cache):
    """The state of every layer: two one-token shift states and the matrix state of the recurrence.

    Its size does not depend on the number of tokens seen, except in RWKV-7b: there it grows by two vectors of
    `deep_embed_attn_low_rank_dim` a token and layer. `copy.deepcopy` forks it, and it can be passed as
    `cache` (or `past_key_values`, its name until transformers 5.23) to any number of continuations.

    Args:
        config (`PreTrainedConfig`): Configuration of the text model, or of a composite that holds one.
        rows_may_begin (`bool`, *optional*, defaults to `False`):
            Whether a position 0 on the first token of a forward pass starts a new sequence instead of continuing the
            state, as where rows of packed sequences come in parts.
    """

    def __init__(self, config: PreTrainedConfig, rows_may_begin: bool = False):
        config = config.get_text_config(decoder=True)
        number_of_states = config.number_of_conv_states
        layer_class = LinearAttentionLayer if config.deep_embed_attn_dim is None else RWKV7ContextLayer
        super().__init__(layers=[layer_class(number_of_states) for _ in range(config.num_hidden_layers)])
        self.config = config
        self.rows_may_begin = rows_may_begin
        # `generate` needs the number of tokens seen, which layers without keys do not track
        self.seen_tokens = 0
        # While past recording is on: the number of tokens and the layers before every forward pass since the last crop
        self.is_recording = False
        self.snapshots: list[tuple[int, SeenTokens | None, list[LinearAttentionLayer]]] = []
        self.seen: SeenTokens | None = None  # by RWKV-7b

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of tokens seen, padding included."""
        return self.seen_tokens

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """(length, offset) of a mask over everything seen and `query_length` new tokens."""
        return self.seen_tokens + query_length, 0

    @property
    def is_linear(self) -> list[bool]:
        """`False` for every layer, which tells `generate` that this cache counts its tokens.

        transformers 5.24 hands a cache of linear layers all tokens of a conversation again, as those of its own cannot
        tell how many they have seen.
        """
        return [False] * len(self.layers)

    @property
    def is_croppable(self) -> bool:
        """Whether `crop` can take tokens back."""
        return self.is_recording

    def reset(self) -> None:
        """Back to the state before the first token."""
        super().reset()
        self.seen_tokens, self.seen = 0, None
        self.snapshots.clear()

    def activate_past_recording(self) -> None:
        """From now on every forward pass keeps the state before it, so that `crop` can go back."""
        self.is_recording = True

    def deactivate_past_recording(self) -> None:
        """Forgets the states kept for `crop`, and keeps no more."""
        self.is_recording = False
        self.snapshots.clear()

    def begin_forward(self) -> None:
        """To be called before a forward pass changes the state."""
        if self.is_recording:
            self.snapshots.append((self.seen_tokens, self.seen, copy.deepcopy(self.layers)))

    def crop(self, tokens_to_remove: int) -> None:
        """Takes back the last tokens, and with them all others of the forward pass that read them.

        A recurrent state holds no tokens that could be removed one by one. `get_seq_length` tells how many are left,
        and `generate` reads again what was taken back too much.

        Args:
            tokens_to_remove (`int`): Minus the number of tokens; 0 only forgets the states kept to go back to.

        Raises:
            ValueError: If it is positive.
            RuntimeError: If past recording was not on when the tokens were read.
        """
        if tokens_to_remove > 0:
            raise ValueError(f"crop takes minus the number of tokens to remove, got {tokens_to_remove}.")
        target = self.seen_tokens + tokens_to_remove
        if target < min([self.seen_tokens, *(before for before, *_ in self.snapshots)]):
            raise RuntimeError(
                f"The state after {target} tokens is gone: call `activate_past_recording` before the forward passes "
                "that are to be taken back."
            )
        while self.seen_tokens > target:
            self.seen_tokens, self.seen, self.layers = self.snapshots.pop()
        self.snapshots.clear()

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Keeps the rows `beam_idx` of the batch, in their order, repeated where they repeat."""
        super().reorder_cache(beam_idx)
        if self.seen is not None:
            self.seen = self.seen.select(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every row of the batch `repeats` times, one after the other."""
        self.batch_select_indices(torch.arange(self.batch_size).repeat_interleave(repeats))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keeps the rows `indices` of the batch, in their order, repeated where they repeat."""
        self.reorder_cache(indices)

    @property
    def batch_size(self) -> int:
        """Rows of the batch; -1 before the first forward pass."""
        state = self.get_recurrent_state(0)
        return -1 if state is None else state.shape[0]

    def get_shift_state(self, layer_idx: int, state_idx: int, hidden_states: torch.Tensor) -> torch.Tensor | None:
        """Last token of the forward pass before, (batch, hidden); `None` before the first.

        Raises:
            ValueError: If a checkpointed module is run again in the backward pass: its own states would be read.
        """
        if not self.has_previous_state(layer_idx, state_idx):
            return None
        if not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != _NO_BACKWARD_PASS:
            raise ValueError(CHECKPOINTED_STATE)
        state = self.get_conv_state(layer_idx, state_idx)
        # The buffer is overwritten in place by the next update
        return state.squeeze(-1).to(hidden_states.dtype, copy=True)

    def update_shift_state(self, token: torch.Tensor, layer_idx: int, state_idx: int) -> None:
        """Stores the token (batch, hidden) that the next forward pass starts from."""
        self.update_conv_state(token[..., None], layer_idx, state_idx, conv_kernel_size=1)

    def update_context(
        self,
        k_low_rank: torch.Tensor,
        v_low_rank: torch.Tensor,
        k_embed: torch.Tensor,
        v_embed: torch.Tensor,
        rows: torch.Tensor,
        fresh: torch.Tensor,
        layer_idx: int,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Adds tokens to what a layer of RWKV-7b looks back at.

        Args:
            k_low_rank: (batch, time, rank), of each new token, for its key.
            v_low_rank: (batch, time, rank), for its value.
            k_embed: (batch, time, size), of each new token, which depends on its id alone.
            v_embed: (batch, time, hidden), likewise.
            rows: (batch, tokens), rows of all tokens in the tables.
            fresh: (new rows,), which of the flattened (batch * time) embeddings the tables do not have.
            layer_idx: Of the layer.

        Returns:
            The four of all tokens so far.
        """
        context = self.layers[layer_idx].context
        new = dict(zip(LOW_RANKS, (k_low_rank, v_low_rank), strict=True))
        new |= {name: x.flatten(0, 1)[fresh] for name, x in zip(TABLES, (k_embed, v_embed), strict=True)}
        for name, x in new.items():
            if name in context:
                context[name] = torch.cat([context[name].to(x.dtype), x], dim=1 if name in LOW_RANKS else 0)
            else:
                context[name] = x
        return *(context[name] for name in LOW_RANKS), *(context[name][rows] for name in TABLES)

    def state_tensors(self) -> list[torch.Tensor]:
        """All tensors of the state, layer by layer; none before the first forward pass."""
        states = [state for layer in self.layers for state in _tensors_of(layer)]
        return [states_of[key] for states_of, key in states]

    def replace_states(self, tensors: list[torch.Tensor]) -> None:
        """Puts other tensors in the place of those of `state_tensors`, in the same order."""
        states = [state for layer in self.layers for state in _tensors_of(layer)]
        for (states_of, key), tensor in zip(states, tensors, strict=True):
            states_of[key] = tensor

    def states_in_place(
        self, num_layers: int, shapes: tuple[tuple[int, ...], tuple[int, ...]], dtype: torch.dtype
    ) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] | None:
        """The tensors of the state themselves, for who overwrites them in place.

        Args:
            num_layers: How many layers there must be.
            shapes: (batch, hidden, 1) of a one-token state and (batch, heads, value, key) of a recurrent one.
            dtype: Of the one-token states; the recurrent ones are float32.

        Returns:
            For every layer the state of the time mix, that of the channel mix and the recurrent state, or `None` if
            one is missing, differentiated, not contiguous memory of the CPU or of another shape or dtype.
        """
        if len(self.layers) != num_layers:
            return None
        shift_shape, recurrent_shape = shapes
        states = []
        for layer in self.layers:
            if layer.record_past or not all(layer.has_previous_state.values()):
                return None
            state = (layer.conv_states[TIME_MIX], layer.conv_states[CHANNEL_MIX], layer.recurrent_states[0])
            fits = all(_is_plain(x, shift_shape, dtype) for x in state[:2])
            if not fits or not _is_plain(state[2], recurrent_shape, torch.float32):
                return None
            states.append(state)
        return states


_RECURRENT, _CONTEXT = 1, 2  # places in what `_mappings_of` gives


def _tensors_of(layer: LinearAttentionLayer) -> list[tuple[dict[int, torch.Tensor], int]]:
    """Where the tensors of a layer's state are: mappings, and the keys in them that have a tensor."""
    return [(states, key) for states in _mappings_of(layer) for key in sorted(states) if states[key] is not None]


def _mappings_of(layer: LinearAttentionLayer) -> tuple[dict[int | str, torch.Tensor], ...]:
    return layer.conv_states, layer.recurrent_states, getattr(layer, "context", {})


def _is_plain(x: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> bool:
    fits = type(x) is torch.Tensor and x.is_cpu and x.dtype is dtype and x.shape == shape
    return fits and x.is_contiguous() and not x.requires_grad


@dataclasses.dataclass
class _BesidesTensors:
    """What a cache is besides the tensors of its state; a graph made with one cache runs with any other.

    Attributes:
        has_context: Whether the tokens that an RWKV-7b model has seen come after the tensors.
        places: Of every tensor, the layer, which of its mappings it is in, and the key there.
    """

    config: PreTrainedConfig = dataclasses.field(compare=False)
    rows_may_begin: bool
    has_context: bool
    seen_tokens: int = dataclasses.field(compare=False)
    places: list[tuple[int, int, int | str]]


def register_cache_export_support() -> None:
    """From now on `torch.export` and `torch.onnx.export` take an [`RWKV7Cache`] as the tensors of its state.

    A cache that is only returned needs no call. The registration is that of the whole process: torch then copies
    caches where it maps functions over arguments, as FSDP does, so this is not for a process that trains.
    """
    name = f"{RWKV7Cache.__module__}.{RWKV7Cache.__qualname__}"
    try:
        pytree.register_pytree_node(
            RWKV7Cache,
            _to_tensors,
            _from_tensors,
            serialized_type_name=name,
            to_dumpable_context=_to_json,
            from_dumpable_context=_from_json,
            flatten_with_keys_fn=_to_named_tensors,
        )
    except ValueError as error:  # by an earlier call, or by the exporters of transformers
        if "already registered" not in str(error):
            raise


def _to_tensors(cache: RWKV7Cache) -> tuple[list[torch.Tensor], _BesidesTensors]:
    seen = cache.seen_tokens if isinstance(cache.seen_tokens, int) else 0  # a tracer's symbol means nothing outside it
    places = [
        (index, mapping, key)
        for index, layer in enumerate(cache.layers)
        for mapping, states in enumerate(_mappings_of(layer))
        for key in sorted(states)
        if states[key] is not None
    ]
    tensors, has_context = cache.state_tensors(), cache.seen is not None
    if has_context:
        tensors += [cache.seen.rows, cache.seen.segments, cache.seen.row_of_id]
    return tensors, _BesidesTensors(cache.config, cache.rows_may_begin, has_context, seen, places)


def _to_named_tensors(cache: RWKV7Cache) -> tuple[list[tuple[pytree.SequenceKey, torch.Tensor]], _BesidesTensors]:
    tensors, rest = _to_tensors(cache)
    return [(pytree.SequenceKey(index), tensor) for index, tensor in enumerate(tensors)], rest


def _from_tensors(tensors: Any, rest: _BesidesTensors) -> RWKV7Cache | list:
    tensors = list(tensors)
    if not all(isinstance(tensor, torch.Tensor) for tensor in tensors):
        return tensors  # a tree of something else, as of what a function said of every tensor
    cache = RWKV7Cache(rest.config, rest.rows_may_begin)
    cache.seen_tokens = rest.seen_tokens
    if rest.has_context:
        *tensors, rows, segments, row_of_id = tensors
        cache.seen = SeenTokens(rows, segments, row_of_id)
    for tensor, (layer_idx, mapping, key) in zip(tensors, rest.places, strict=True):
        if mapping == _CONTEXT:
            cache.layers[layer_idx].context[key] = tensor
        elif mapping == _RECURRENT:
            cache.update_recurrent_state(tensor, layer_idx)
        else:
            cache.update_conv_state(tensor, layer_idx, key, conv_kernel_size=1)
    return cache


def _to_json(rest: _BesidesTensors) -> dict[str, Any]:
    flags = {"rows_may_begin": rest.rows_may_begin, "has_context": rest.has_context}
    return {"config": rest.config.to_dict(), **flags, "places": rest.places}


def _from_json(rest: dict[str, Any]) -> _BesidesTensors:
    places = [tuple(place) for place in rest["places"]]
    return _BesidesTensors(RWKV7Config(**rest["config"]), rest["rows_may_begin"], rest["has_context"], 0, places)


class RWKV7GenerationMixin(GenerationMixin):
    """`generate` with an [`RWKV7Cache`].

    transformers keeps classes with "rwkv" in their name from getting a cache, which was meant for RWKV-4, and its own
    caches do not count tokens unless they hold keys.
    """

    generate = takes_both_cache_names(returns_both_cache_names(GenerationMixin.generate))

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return True

    def _prepare_cache_for_generation(self, generation_config, model_kwargs, *args, **kwargs):
        super()._prepare_cache_for_generation(generation_config, model_kwargs, *args, **kwargs)
        if type(model_kwargs.get(CACHE_NAME)) in (DynamicCache, StaticCache):
            model_kwargs[CACHE_NAME] = RWKV7Cache(self.config)
            if generation_config.is_assistant:
                model_kwargs[CACHE_NAME].activate_past_recording()

    @takes_both_cache_names
    def prepare_inputs_for_generation(
        self,
        input_ids,
        next_sequence_length=None,
        cache=None,
        attention_mask=None,
        inputs_embeds=None,  # named, for `generate` looks for it in this signature
        **kwargs,
    ):
        """The inputs of one forward pass.

        Tokens that were taken back together with a wrong candidate are read again along with the next candidates; when
        they have become many, in a forward pass of their own, which no candidate can take back.
        """
        if getattr(cache, "is_recording", False):
            unread = input_ids[:, cache.get_seq_length() :]
            again = 0 if next_sequence_length is None else unread.shape[1] - next_sequence_length
            if again >= MAX_TOKENS_READ_AGAIN:
                self(input_ids=unread[:, :again], cache=cache, logits_to_keep=1)
                unread = unread[:, again:]
            next_sequence_length = unread.shape[1]
        inputs = super().prepare_inputs_for_generation(
            input_ids, next_sequence_length, cache, attention_mask, inputs_embeds, **kwargs
        )
        mask = inputs.get("attention_mask")
        if isinstance(mask, dict):
            inputs["attention_mask"] = mask["linear_attention"]
        if "prepare_inputs_for_generation" in self.__dict__ and CACHE_NAME in inputs:
            # PEFT has wrapped this method to put learned tokens in front, unless it finds a state under the older name
            inputs["past_key_values"] = inputs.pop(CACHE_NAME)
        return inputs

    def _assisted_decoding(
        self,
        input_ids,
        logits_processor,
        stopping_criteria,
        generation_config,
        synced_gpus=False,
        streamer=None,
        inputs_tensor=None,
        assistant_model=None,
        assistant_tokenizer=None,
        tokenizer=None,
        **model_kwargs,
    ):
        """Reads the prompt before any candidate, so that taking candidates back never takes back the prompt.

        Raises:
            ValueError: If the model's own first layers are asked to guess.
        """
        if generation_config.assistant_early_exit is not None:
            raise ValueError(
                f"assistant_early_exit={generation_config.assistant_early_exit}: RWKV-7 is not trained to answer from "
                "an early layer; guess by prompt_lookup_num_tokens, or by a smaller assistant_model."
            )
        cache = model_kwargs.get(CACHE_NAME)
        wants_hidden_states = generation_config.return_dict_in_generate and generation_config.output_hidden_states
        if wants_hidden_states:
            start, prompt_length, first_kwargs = copy.deepcopy(cache), input_ids.shape[1], dict(model_kwargs)
        if isinstance(cache, RWKV7Cache) and input_ids.shape[1] - 1 > cache.get_seq_length():
            prompt_kwargs = dict(model_kwargs)
            for name in ("attention_mask", "position_ids"):
                if model_kwargs.get(name) is not None:
                    prompt_kwargs[name] = model_kwargs[name][:, :-1]
            self._prefill(input_ids[:, cache.get_seq_length() : -1], generation_config, prompt_kwargs)
            for name in MULTIMODAL_INPUTS_TO_DROP_OUTSIDE_PREFILL:
                model_kwargs.pop(name, None)
        try:
            output = super()._assisted_decoding(
                input_ids,
                logits_processor,
                stopping_criteria,
                generation_config,
                synced_gpus,
                streamer,
                inputs_tensor,
                assistant_model,
                assistant_tokenizer,
                tokenizer,
                **model_kwargs,
            )
        finally:
            if isinstance(cache, RWKV7Cache):
                cache.deactivate_past_recording()
        if wants_hidden_states:
            output.hidden_states = self._hidden_states_of(output.sequences, prompt_length, start, first_kwargs)
        return output

    def _hidden_states_of(self, sequences, prompt_length: int, start: RWKV7Cache, model_kwargs: dict) -> tuple:
        """Hidden states as plain decoding gives them: of the prompt, then of every token but the last, layer by layer.

        By one more forward pass, since those of candidates that were taken back and read again cannot be told apart.
        """
        seen = start.get_seq_length()
        mask = model_kwargs.get("attention_mask")
        if mask is not None:
            mask = torch.nn.functional.pad(mask, (0, sequences.shape[1] - 1 - mask.shape[1]), value=1)
        media = {name: model_kwargs.get(name) for name in MULTIMODAL_INPUTS_TO_DROP_OUTSIDE_PREFILL}
        layers = self(
            sequences[:, seen:-1],
            attention_mask=mask,
            cache=start,
            output_hidden_states=True,
            logits_to_keep=1,
            **{name: value for name, value in media.items() if value is not None},
        ).hidden_states
        ends = range(prompt_length - seen, sequences.shape[1] - seen)
        begins = (0, *ends)
        return tuple(tuple(layer[:, begin:end] for layer in layers) for begin, end in zip(begins, ends, strict=False))

    def _get_stopping_criteria(self, generation_config, stopping_criteria, tokenizer=None):
        """Stop strings that a model was saved with need no `tokenizer`: there is one in its own folder."""
        if generation_config.stop_strings is not None and tokenizer is None and self.name_or_path:
            tokenizer = _tokenizer_of(self.name_or_path, getattr(self.config, "_commit_hash", None))
        return super()._get_stopping_criteria(generation_config, stopping_criteria, tokenizer)

    def _prepare_position_ids_for_generation(self, inputs_tensor, model_kwargs) -> None:
        """No positions unless the caller packs sequences: to look for starts among them would break a graph."""

    def _update_model_kwargs_for_generation(self, outputs, model_kwargs, *args, **kwargs):
        if model_kwargs.get("use_cache"):
            # Positions only say where packed sequences start, which a generated token never does; to carry them on
            # costs four operators a token
            model_kwargs.pop("position_ids", None)
        return super()._update_model_kwargs_for_generation(outputs, model_kwargs, *args, **kwargs)

    @staticmethod
    def create_masks_for_generate(config, inputs_embeds, attention_mask, is_first_iteration=False, **kwargs):
        """The padding mask of the current tokens; a generated token is never padding."""
        local_mask = None
        if attention_mask is not None and is_first_iteration:
            local_mask = attention_mask[:, -inputs_embeds.shape[1] :]
        return {"linear_attention": local_mask}


@lru_cache(maxsize=4)
def _tokenizer_of(model: str, revision: str | None) -> PreTrainedTokenizerBase | None:
    """The tokenizer beside the weights of a model; `None` if it is not on this machine.

    World tokenizers are stock tokenizer.json files. By their class no code of the folder is looked at, so nobody is
    asked whether it may run, and nothing is fetched.
    """
    try:
        return PreTrainedTokenizerFast.from_pretrained(model, revision=revision, local_files_only=True)
    except (OSError, ValueError):
        return None
