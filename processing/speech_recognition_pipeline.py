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
"""`pipeline("automatic-speech-recognition")` for models with an audio encoder.

The class of transformers knows CTC, transducers and encoder-decoders only, and reads files by ffmpeg. A saved folder
names this one in `custom_pipelines`, so it serves wherever the folder is loaded with `trust_remote_code=True`.
"""

from typing import Any

from transformers import GenerationConfig, Pipeline

from .answers import encode_conversations, generate_answers
from .media import read_clip


class RWKVWorldSpeechRecognitionPipeline(Pipeline):
    """Transcripts of clips: `pipe(clip)` gives `{"text": ...}`, `pipe([clip, ...], batch_size=8)` a list of them.

    A clip is what the processor takes: a path, URL, bytes, an open file, an array at the encoder's rate, or a dict of
    "array" or "raw" with "sampling_rate". Clips of any length are read whole, so there are no chunks to set.

    Options of the pipeline, or of a call:
        prompt (`str`, *optional*): What is asked after the clip, for models that were trained with a question.
        generate_kwargs (`dict`, *optional*): Options of `generate`, which may also be given by themselves.
    """

    _load_processor = True
    _load_tokenizer = _load_image_processor = _load_video_processor = _load_feature_extractor = False
    _pipeline_calls_generate = True
    _default_generation_config = GenerationConfig(max_new_tokens=256)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if getattr(self.processor, "feature_extractor", None) is None:
            raise ValueError(
                "Speech recognition needs a processor with a feature_extractor: the model has no audio encoder."
            )
        # The processor pads batches; the base class would do so too, and refuse parts that pad on different sides
        self.feature_extractor = None

    def _sanitize_parameters(
        self, prompt: str | None = None, return_timestamps: bool | str | None = None, generate_kwargs=None, **options
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if return_timestamps:
            raise ValueError(
                f"return_timestamps is {return_timestamps!r}: the model writes text, not when it was said."
            )
        preprocessing = {} if prompt is None else {"prompt": prompt}
        return preprocessing, options | (generate_kwargs or {}), {}

    def preprocess(self, clip: Any, prompt: str | None = None) -> dict[str, list[dict]]:
        """A conversation with the clip at the encoder's rate."""
        if isinstance(clip, dict) and "raw" in clip:
            clip = {"array": clip["raw"], "sampling_rate": clip.get("sampling_rate")}
        rate = self.processor.feature_extractor.sampling_rate
        content = [{"type": "audio", "audio": read_clip(clip, rate, rate)}]
        content += [{"type": "text", "text": prompt}] if prompt else []
        return {"conversation": [{"role": "user", "content": content}]}

    def _forward(self, model_inputs: dict, **generate_kwargs) -> dict[str, str | list[str]]:
        conversations = model_inputs["conversation"]
        is_batch = isinstance(conversations[0], list)
        inputs = encode_conversations(self.processor, conversations if is_batch else [conversations])
        options = self._prepare_generate_kwargs(generate_kwargs)
        texts = generate_answers(self.model, self.processor, inputs, **options)
        return {"text": texts if is_batch else texts[0]}

    def postprocess(self, model_outputs: dict[str, str]) -> dict[str, str]:
        """The transcript of one clip."""
        return dict(model_outputs)
