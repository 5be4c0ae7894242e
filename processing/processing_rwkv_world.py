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
"""The processor of the composite: text, images and clips in, what the model's forward takes out."""

import math
from functools import partial
from itertools import islice

import numpy as np
from transformers import AutoImageProcessor
from transformers.image_utils import get_image_size, to_numpy_array
from transformers.processing_utils import MultiModalData, ProcessorMixin
from transformers.utils import auto_docstring

from ..configuration.configuration_rwkv_world import RWKVWorldConfig
from ..configuration.feature_lengths import audio_frame_length, convolution_length, image_token_length
from ..configuration.source_code import WritesItsCode
from .chat_templates import TURN_END, TURN_START, WORLD_CHAT_TEMPLATE
from .media import list_clips, nest_clips, read_audio_block, read_clip, read_images
from .response_templates import response_template
from .shared_pixels import resize_together
from .video import replace_videos


# Under which image processors of transformers give the number of tiles of every picture
NUM_TILES = "num_patches"
# And under which those for encoders of pictures of any size give frames, rows and columns of patches
GRIDS = "image_grid_thw"


@auto_docstring
class RWKVWorldProcessor(WritesItsCode, ProcessorMixin):
    auto_classes = {"AutoProcessor": "RWKVWorldProcessor"}
    # Real lengths of clips are needed to write as many placeholders as the model makes features
    audio_kwargs = {"return_attention_mask": True}

    def __init__(
        self,
        image_processor=None,
        feature_extractor=None,
        tokenizer=None,
        chat_template=None,
        patch_size=None,
        num_additional_image_tokens=0,
        vision_feature_select_strategy="full",
        vision_projector_convolution=None,
        vision_patches_per_token=1,
        num_token_per_image=None,
        shares_max_pixels=False,
        audio_encoder_convolutions=None,
        audio_max_frames=None,
        audio_projector_convolution=None,
        audio_whole_window=False,
        audio_window_seconds=60.0,
        **kwargs,
    ):
        r"""
        patch_size (`int`, *optional*):
            Patch size of the vision encoder.
        num_additional_image_tokens (`int`, *optional*, defaults to 0):
            Class and register tokens that the vision encoder puts in front of the patches.
        vision_feature_select_strategy (`str`, *optional*, defaults to `"full"`):
            `"full"` if the model keeps every feature, `"default"` if it keeps only those of patches.
        vision_projector_convolution (`list[int]`, *optional*):
            (kernel size, stride, padding) of the vision projector's convolution.
        vision_patches_per_token (`int`, *optional*, defaults to 1):
            Patches that the vision projector makes one token of.
        num_token_per_image (`int`, *optional*):
            Averages that the model takes of the patches of a picture in front of the projector.
        shares_max_pixels (`bool`, *optional*, defaults to `False`):
            Whether the images of a text have no more pixels together than one of them may have, where an encoder sees
            images of any size.
        audio_encoder_convolutions (`list[list[int]]`, *optional*):
            (kernel size, stride, padding) of the convolutions that shorten a clip inside the audio encoder.
        audio_max_frames (`int`, *optional*):
            Most frames that the audio encoder gives.
        audio_projector_convolution (`list[int]`, *optional*):
            (kernel size, stride, padding) of the speech projector's convolution.
        audio_whole_window (`bool`, *optional*, defaults to `False`):
            Whether a clip makes as many features as the padded input has, not only those of its own length.
        audio_window_seconds (`float`, *optional*, defaults to 60.0):
            Longer clips are encoded in so many equal parts that none is longer, and their features joined. An encoder
            with a window of its own, as Whisper, takes that.
        """
        if tokenizer is None:
            raise ValueError("RWKVWorldProcessor needs a tokenizer.")
        chat_template = chat_template or WORLD_CHAT_TEMPLATE
        if TURN_END.encode("unicode_escape").decode() in chat_template:
            # Transformers looks for it here, where that of a text model may stand
            tokenizer.response_template = response_template("Assistant:", TURN_END)
        self.patch_size = patch_size
        self.num_additional_image_tokens = num_additional_image_tokens
        self.vision_feature_select_strategy = vision_feature_select_strategy
        self.vision_projector_convolution = vision_projector_convolution
        self.vision_patches_per_token = vision_patches_per_token
        self.num_token_per_image = num_token_per_image
        self.shares_max_pixels = shares_max_pixels
        self.audio_encoder_convolutions = audio_encoder_convolutions
        self.audio_max_frames = audio_max_frames
        self.audio_projector_convolution = audio_projector_convolution
        self.audio_whole_window = audio_whole_window
        self.audio_window_seconds = audio_window_seconds
        self.image_token, self.image_token_id = tokenizer.image_token, tokenizer.image_token_id
        self.audio_token, self.audio_token_id = tokenizer.audio_token, tokenizer.audio_token_id

        parts = {"image_processor": image_processor, "feature_extractor": feature_extractor, "tokenizer": tokenizer}
        parts = {name: part for name, part in parts.items() if part is not None}
        # The base class takes every part named in the signature for present; this processor has those it was given
        self.get_attributes = partial(list, tuple(parts))
        super().__init__(chat_template=chat_template, **parts)

    @classmethod
    def from_model_config(
        cls, config: RWKVWorldConfig, tokenizer, image_processor=None, feature_extractor=None, chat_template=None
    ) -> "RWKVWorldProcessor":
        """A processor whose placeholder counts agree with a model of this configuration.

        Args:
            config: Configuration of the model.
            tokenizer: A World tokenizer.
            image_processor: Stock image processor of the vision encoder, for a model with a vision encoder.
            feature_extractor: Stock feature extractor of the audio encoder, for a model with an audio encoder.
            chat_template: Jinja template; the World template by default.
        """
        options = {}
        if config.vision_takes_grids:
            _check_patches(config.vision_config, image_processor)
        if config.vision_config is not None:
            # Several towers have one each, and a fixed number of tokens instead
            options["patch_size"] = getattr(config.vision_config, "patch_size", None)
            options["num_additional_image_tokens"] = config.num_additional_image_tokens
            options["vision_feature_select_strategy"] = config.vision_feature_select_strategy
            options["vision_projector_convolution"] = config.vision_projector_convolution
            options["vision_patches_per_token"] = config.vision_patches_per_token
            options["num_token_per_image"] = config.num_token_per_image
        if config.audio_config is not None:
            options["audio_encoder_convolutions"] = config.audio_encoder_convolutions
            options["audio_max_frames"] = config.audio_max_frames
            options["audio_projector_convolution"] = config.audio_projector_convolution
            options["audio_whole_window"] = config.audio_whole_window
        return cls(image_processor, feature_extractor, tokenizer, chat_template=chat_template, **options)

    @classmethod
    def _get_arguments_from_pretrained(cls, pretrained_model_name_or_path, processor_dict=None, **kwargs):
        """Loads the parts that were saved, and `None` for those this processor does not have."""
        saved = [name for name in cls.get_attributes() if name == "tokenizer" or name in (processor_dict or {})]
        # The originals resize with Pillow; tensors are resized to other pixels, which shows in the logits
        backend = kwargs.pop("backend", "pil")
        image_processor = None
        if "image_processor" in saved:
            saved.remove("image_processor")
            image_processor = AutoImageProcessor.from_pretrained(
                pretrained_model_name_or_path, backend=backend, **kwargs
            )
        loader = type(cls.__name__, (cls,), {"get_attributes": partial(list, saved)})
        parts = super(RWKVWorldProcessor, loader)._get_arguments_from_pretrained(
            pretrained_model_name_or_path, processor_dict, **kwargs
        )
        by_name = dict(zip(saved, parts, strict=True)) | {"image_processor": image_processor}
        return [by_name.get(name) for name in cls.get_attributes()]

    def save_pretrained(self, save_directory, push_to_hub: bool = False, **kwargs):
        """Saves all parts in a folder; the base classes would leave marks on the processor and its tokenizer."""
        auto_map, processor_class = vars(self).get("auto_map"), getattr(self.tokenizer, "_processor_class", None)
        try:
            return super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
        finally:
            vars(self).pop("auto_map", None)
            if auto_map is not None:
                self.auto_map = auto_map
            self.tokenizer._set_processor_class(processor_class)

    def prepare_inputs_layout(self, images=None, text=None, videos=None, audio=None, **kwargs):
        """Refuses inputs this processor has no part for, reads files, brings clips to mono at the encoder's rate."""
        if videos is not None:
            raise ValueError('A video is given in a conversation, as {"type": "video", "video": ...}, or as images.')
        if images is not None:
            if not hasattr(self, "image_processor"):
                raise ValueError(
                    "Images were given to a processor without an image_processor: the model has no vision encoder."
                )
            given = dict(kwargs.get("images_kwargs") or {}) | kwargs
            # What the caller will not have rescaled has the range that the encoder takes
            keep_floats = given.get("do_rescale", getattr(self.image_processor, "do_rescale", None)) is False
            images = read_images(images, given.get("input_data_format"), keep_floats)
        if audio is not None:
            if not hasattr(self, "feature_extractor"):
                raise ValueError(
                    "Audio was given to a processor without a feature_extractor: the model has no audio encoder."
                )
            sampling_rate = kwargs.get("sampling_rate", (kwargs.get("audio_kwargs") or {}).get("sampling_rate"))
            target = self.feature_extractor.sampling_rate
            _check_rows(nest_clips(audio), text, self.audio_token, "clips")
            audio = [read_clip(clip, sampling_rate, target) for clip in list_clips(audio)] or None
        return super().prepare_inputs_layout(images=images, text=text, audio=audio, **kwargs)

    def validate_inputs(self, images=None, text=None, videos=None, audio=None, **kwargs):
        """Refuses images row by row that do not fit their texts, in which what users wrote is no placeholder."""
        _check_rows(images, text, self.image_token, "images")
        super().validate_inputs(images=images, text=text, videos=videos, audio=audio, **kwargs)

    def _multimodal_inputs_from_conversations(self, conversations, audio_loading_params, *args, **kwargs):
        """Reads clips where a bad file is named; an array is taken to be at the encoder's rate."""
        rate = audio_loading_params["sampling_rate"]
        for message in (message for conversation in conversations for message in conversation):
            if isinstance(message.get("content"), list):
                message["content"] = [read_audio_block(block, rate) for block in message["content"]]
        return super()._multimodal_inputs_from_conversations(conversations, audio_loading_params, *args, **kwargs)

    def apply_chat_template(self, conversation, *args, num_frames=None, fps=None, **kwargs):
        r"""
        Writes a conversation out, see [`~transformers.ProcessorMixin.apply_chat_template`]. A `{"type": "video"}`
        stands for pictures: 8 frames at equal distances, or `num_frames`, or `fps` of every second.
        """
        if options := dict(kwargs.get("processor_kwargs") or {}):
            num_frames = options.pop("num_frames", num_frames)
            fps = options.pop("fps", fps)
            kwargs["processor_kwargs"] = options
        return super().apply_chat_template(replace_videos(conversation, num_frames, fps), *args, **kwargs)

    def _process_audio(self, audio, **kwargs):
        parts = [self._split_clip(clip) for clip in audio]
        # Limits in tokens, meant for the text; a clip is taken whole or refused
        kwargs = {name: value for name, value in kwargs.items() if name not in ("max_length", "truncation")}
        kwargs["sampling_rate"] = self.feature_extractor.sampling_rate
        # An encoder with a window takes nothing but whole windows, whatever padding the text gets
        kwargs["padding"] = True if self.audio_max_frames is None else "max_length"
        features = self.feature_extractor([part for clip in parts for part in clip], **kwargs)
        # One name for spectrograms and waveforms
        values = features["input_features"] if "input_features" in features else features["input_values"]
        processed = {"input_features": values, "input_features_mask": features["attention_mask"]}
        placeholders = (self.replace_audio_token(processed, audio_idx=index) for index in range(len(values)))
        return processed, ["".join(islice(placeholders, len(clip))) for clip in parts]

    def _split_clip(self, clip: np.ndarray) -> list[np.ndarray]:
        """Equal parts of a clip, none longer than the encoder's window."""
        window = getattr(self.feature_extractor, "n_samples", None)
        window = window or int(self.audio_window_seconds * self.feature_extractor.sampling_rate)
        return np.array_split(clip, math.ceil(len(clip) / window))

    @property
    def _patches_of_token(self) -> int:
        """Patches of a token where pictures have grids: features that the encoder merges, times those it packs."""
        return self.image_processor.merge_size**2 * self.vision_patches_per_token

    def _process_images(self, images, **kwargs):
        """As the base class does; where tokens are squares of merged features, pictures have whole squares."""
        if GRIDS not in self.image_processor.model_input_names:
            return super()._process_images(images, **kwargs)
        merge_size, side = self.image_processor.merge_size, math.isqrt(self._patches_of_token)
        if self.shares_max_pixels and kwargs.get("do_resize") is not False:
            size = kwargs.get("size") or self.image_processor.size
            images = self._resize_together(images, size, side * self.image_processor.patch_size)
            kwargs["do_resize"] = False
        processed, replacements = super()._process_images(images, **kwargs | {"merge_size": side})
        if side > merge_size:
            ordered = _by_merged_features(processed["pixel_values"], processed[GRIDS], merge_size, side // merge_size)
            processed["pixel_values"] = ordered
        return processed, replacements

    def _resize_together(self, images, size: dict[str, int], side: int) -> list:
        """The images of every row resized to whole squares of `side` pixels; a flat list is one row."""
        rows = images if _are_rows(images) else [images]
        rows = [list(row) if isinstance(row, (list, tuple)) else [row] for row in rows]
        limits = size["shortest_edge"], size["longest_edge"]
        resized = [resize_together(row, side, *limits, self.image_processor.resample) for row in rows]
        return [image for row in resized for image in row]

    def replace_image_token(self, image_inputs: dict, image_idx: int, **kwargs) -> str:
        """As many placeholders as the model makes features of the image."""
        if GRIDS in image_inputs:
            patches = int(np.prod(np.asarray(image_inputs[GRIDS][image_idx])))
            return self.image_token * (patches // self._patches_of_token)
        tiles = int(image_inputs[NUM_TILES][image_idx]) if NUM_TILES in image_inputs else 1
        # The pixels of several towers lie in one row, but are pooled to a fixed number of tokens. A tile of this index
        # may be of another picture, but all are alike
        is_fixed = self.num_token_per_image is not None
        size = None if is_fixed else get_image_size(to_numpy_array(image_inputs["pixel_values"][image_idx]))
        return self.image_token * (tiles * self._num_image_tokens(size))

    def replace_audio_token(self, audio_inputs: dict, audio_idx: int, **kwargs) -> str:
        """As many placeholders as the model makes features of the clip, or of one part of a long one."""
        mask = np.asarray(audio_inputs["input_features_mask"][audio_idx])
        length = mask.size if self.audio_whole_window else int(mask.sum())
        return self.audio_token * self._num_audio_tokens(length)

    def _num_image_tokens(self, size: tuple[int, int] | None) -> int:
        """Tokens of a picture or tile of (height, width), which only the number of its patches depends on."""
        features = None
        if size is not None:
            features = (size[0] // self.patch_size) * (size[1] // self.patch_size)
            features += self.num_additional_image_tokens if self.vision_feature_select_strategy == "full" else 0
        return image_token_length(
            features, self.vision_projector_convolution, self.vision_patches_per_token, self.num_token_per_image
        )

    def _num_audio_tokens(self, length: int) -> int:
        frames = audio_frame_length(length, self.audio_encoder_convolutions, self.audio_max_frames)
        tokens = convolution_length(frames, *self.audio_projector_convolution) if frames > 0 else 0
        if tokens <= 0:
            shortest = 1
            for kernel_size, stride, padding in reversed(self.audio_encoder_convolutions):
                shortest = (shortest - 1) * stride + kernel_size - 2 * padding
            raise ValueError(f"An audio clip of {length} samples is too short: the encoder needs at least {shortest}.")
        return tokens

    def _get_num_multimodal_tokens(self, image_sizes=None, **kwargs) -> MultiModalData:
        """Placeholders of images of the given (height, width), for serving engines."""
        if image_sizes is None:
            return MultiModalData()
        if GRIDS in self.image_processor.model_input_names:
            merge_size = {"merge_size": math.isqrt(self._patches_of_token)}
            patches = [self.image_processor.get_number_of_image_patches(*size, merge_size) for size in image_sizes]
            tokens = [count // self._patches_of_token for count in patches]
            return MultiModalData(num_image_tokens=tokens, num_image_patches=patches)
        count_tiles = getattr(self.image_processor, "get_number_of_image_patches", lambda height, width: 1)
        tiles = [count_tiles(height, width) for height, width in image_sizes]
        tokens = self._num_image_tokens(self._encoded_size() if self.num_token_per_image is None else None)
        return MultiModalData(num_image_tokens=[tokens * count for count in tiles], num_image_patches=tiles)

    def _encoded_size(self) -> tuple[int, int]:
        """(height, width) of what the encoder sees at once."""
        if hasattr(self.image_processor, "tile_size"):
            return self.image_processor.tile_size, self.image_processor.tile_size
        cropped = getattr(self.image_processor, "do_center_crop", False)
        size = self.image_processor.crop_size if cropped else self.image_processor.size
        return size["height"], size["width"]

    def decode(self, token_ids, skip_special_tokens: bool = False, **kwargs) -> str | list[str]:
        """Text of ids, as the tokenizer's `decode`; `skip_special_tokens` leaves out the marks of turns too.

        In the World vocabulary these marks are ordinary control characters, which the tokenizer alone would keep.
        """
        if skip_special_tokens:
            return self.post_process_image_text_to_text(token_ids, **kwargs)
        return self.tokenizer.decode(token_ids, **kwargs)

    def batch_decode(self, sequences, skip_special_tokens: bool = False, **kwargs) -> list[str]:
        """Texts of several rows of ids, see [`~RWKVWorldProcessor.decode`]."""
        return [self.decode(row, skip_special_tokens=skip_special_tokens, **kwargs) for row in sequences]

    def post_process_image_text_to_text(self, generated_outputs, skip_special_tokens: bool = True, **kwargs):
        """Texts of what `generate` gave, without the marks of turns; see [`~RWKVWorldProcessor.decode`].

        Pipelines ask for special tokens where a tokenizer has a `response_template`, and show what they get.
        """
        texts = self.tokenizer.decode(generated_outputs, skip_special_tokens=skip_special_tokens, **kwargs)
        return _without_turn_marks(texts) if isinstance(texts, str) else [_without_turn_marks(text) for text in texts]

    @property
    def unused_input_names(self) -> list[str]:
        """What an image processor tells only for the placeholders to be counted."""
        return [NUM_TILES]

    @property
    def model_input_names(self) -> list[str]:
        """Names of everything this processor returns."""
        names = list(self.tokenizer.model_input_names)
        if hasattr(self, "image_processor"):
            names += [name for name in self.image_processor.model_input_names if name in ("pixel_values", GRIDS)]
        if hasattr(self, "feature_extractor"):
            names += ["input_features", "input_features_mask"]
        return names


def _are_rows(media) -> bool:
    """Whether media are given row by row."""
    return isinstance(media, (list, tuple)) and any(isinstance(row, (list, tuple)) for row in media)


def _check_rows(media, text: str | list[str] | None, token: str, kind: str) -> None:
    """Refuses media that are given row by row where a row has more or fewer than its text has placeholders.

    Raises:
        ValueError: Names the row.
    """
    if text is None or not _are_rows(media):
        return
    texts = [text] if isinstance(text, str) else list(text)
    counts = [len(row) if isinstance(row, (list, tuple)) else 1 for row in media]
    if len(counts) != len(texts):
        raise ValueError(f"{len(counts)} rows of {kind} for {len(texts)} texts: expected as many.")
    for index, (count, row) in enumerate(zip(counts, texts, strict=True)):
        if count != row.count(token):
            raise ValueError(f"Row {index}: {row.count(token)} {token} tokens in its text, but {count} {kind}.")


def _by_merged_features(pixel_values, grids, merge_size: int, factor: int):
    """Patches in the order that the encoder merges them in, of those that come by squares of `factor` merged features.

    Args:
        pixel_values: (patches, numbers) of all pictures, an array or a tensor.
        grids: (pictures, 3), frames, rows and columns of patches.
        merge_size: Side of the squares of patches that the encoder merges.
        factor: Side of the squares of merged features that become a token.
    """
    order, start = [], 0
    for frames, rows, columns in np.asarray(grids).tolist():
        side = merge_size * factor
        shape = (frames, rows // side, columns // side, factor, merge_size, factor, merge_size)
        places = np.arange(start, start + frames * rows * columns).reshape(shape)
        order.append(places.transpose(0, 1, 3, 2, 5, 4, 6).ravel())
        start += frames * rows * columns
    return pixel_values[np.concatenate(order)]


def _check_patches(vision_config, image_processor) -> None:
    """Refuses an image processor that does not cut patches as the vision encoder takes them.

    Raises:
        ValueError: Names the option.
    """
    options = {
        "patch_size": "patch_size",
        "merge_size": "spatial_merge_size",
        "temporal_patch_size": "temporal_patch_size",
    }
    for name, theirs in options.items():
        wanted, given = getattr(vision_config, theirs), getattr(image_processor, name, None)
        if image_processor is not None and given != wanted:
            raise ValueError(f"The image processor's {name} is {given}, but the vision encoder takes {wanted}.")


def _without_turn_marks(text: str) -> str:
    return text.replace(TURN_START, "").replace(TURN_END, "")


__all__ = ["RWKVWorldProcessor"]
