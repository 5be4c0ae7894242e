# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The model card of what is published: metadata with `model-index`, sizes, how to load it, results.

Results come from evaluation files, each an object or a list of objects
`{"task": ..., "dataset": ..., "split": ..., "metrics": {name: value}, "settings": {...}}`.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from safetensors import safe_open

from ..configuration.source_code import CODE_FOLDER
from .contents import Contents, Kind
from .snippets import write_snippet


PIPELINES = {Kind.TEXT: "text-generation", Kind.WORLD: "image-text-to-text"}
PLACEHOLDER = "[More Information Needed]"  # in the cards that PEFT and transformers write of their own accord
# At the end of a text that this module wrote; one by hand has none, and is kept
MARK = "<!-- Written by rwkv7-world upload, which writes it anew. Take this line out to keep a text of your own. -->"
STATE_NUMBER_BYTES = 4  # the matrix of every head is kept in float32
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}


@dataclass(frozen=True)
class Description:
    """What the one who publishes says.

    Args:
        repo: Name on the Hub, `owner/name`.
        license: Identifier of the licence, as `apache-2.0`.
        base_model: Name on the Hub of the model that this one was made from.
        datasets: Names of the data sets it was trained on.
        results: Evaluation files.
    """

    repo: str
    license: str | None = None
    base_model: str | None = None
    datasets: tuple[str, ...] = ()
    results: tuple[Path, ...] = ()


def build_card(contents: Contents, description: Description) -> ModelCard:
    """The card; a `README.md` in the folder keeps what its metadata says, and its text if it was written by hand.

    Raises:
        ValueError: If no licence is known, or a file of results is not as it should be.
    """
    own = _own_card(contents.folder)
    results = [result for file in description.results for result in read_results(file)]
    data = ModelCardData(
        license=description.license,
        library_name="peft" if contents.kind is Kind.ADAPTER else "transformers",
        pipeline_tag=PIPELINES.get(contents.kind),
        base_model=description.base_model,
        datasets=list(description.datasets) or None,
        tags=["rwkv", "rwkv-7", "custom_code"],
        model_name=description.repo.rpartition("/")[2],
        eval_results=[value for result in results for value in _eval_results(result)] or None,
    )
    metadata = (own.data.to_dict() if own else {}) | data.to_dict()
    metadata.pop("model-index", None)  # which is made of the results again
    if not metadata.get("license"):
        raise ValueError(f"{contents.folder}: no licence is set; give --license, for instance --license apache-2.0")
    text = own.text.strip() if own and MARK not in own.text else _write_text(contents, description, results)
    known_results = data.eval_results or (own and own.data.eval_results) or None
    name = {"model_name": description.repo.rpartition("/")[2]} if known_results else {}
    metadata = ModelCardData(**metadata, **name, eval_results=known_results)
    return ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n{text}\n")


def read_results(file: Path) -> list[dict]:
    """The results in an evaluation file.

    Raises:
        ValueError: If it is not in the format that the module's docstring gives.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: not a JSON file ({error})") from error
    results = content if isinstance(content, list) else [content]
    for result in results:
        fields = result if isinstance(result, dict) else {}
        metrics = fields.get("metrics")
        named = all(isinstance(fields.get(name), str) for name in ("task", "dataset"))
        if not named or not isinstance(metrics, dict) or not all(map(_is_number, metrics.values())):
            raise ValueError(f'{file}: expected "task", "dataset" and "metrics" with numbers in every result')
    return results


def num_parameters(contents: Contents) -> int:
    """Numbers in all weights."""
    count = 0
    for file in contents.weights:
        with safe_open(file, framework="pt") as tensors:
            count += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return count


def state_bytes(config: dict) -> int:
    """Bytes of the state of one sequence, however long, from the configuration of a model."""
    text = config.get("text_config", config)
    token = 2 * text["hidden_size"] * DTYPE_BYTES[config.get("dtype") or "float32"]
    matrices = text["num_heads"] * text["head_dim"] ** 2 * STATE_NUMBER_BYTES
    return text["num_hidden_layers"] * (token + matrices)


def _own_card(folder: Path) -> ModelCard | None:
    path = folder / "README.md"
    if not path.is_file() or PLACEHOLDER in path.read_text(encoding="utf-8"):
        return None
    return ModelCard.load(path)


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _eval_results(result: dict) -> Iterator[EvalResult]:
    for name, value in result["metrics"].items():
        yield EvalResult(
            task_type=result["task"],
            dataset_type=re.sub(r"[^\w./-]+", "-", result["dataset"]).lower(),
            dataset_name=result["dataset"],
            dataset_split=result.get("split"),
            dataset_args=result.get("settings") or None,
            metric_type=name,
            metric_value=value,
        )


def _write_text(contents: Contents, description: Description, results: list[dict]) -> str:
    parts = [f"# {description.repo.rpartition('/')[2]}", _summary(contents, description), "## Use"]
    snippet = write_snippet(contents, description.repo, description.base_model)
    parts += [_needs(contents), f"```python\n{snippet}```"]
    if results:
        parts += ["## Results", _results_table(results)]
    return "\n\n".join([*parts, MARK])


def _summary(contents: Contents, description: Description) -> str:
    facts = [f"An RWKV-7 {contents.kind}: {num_parameters(contents):,} parameters."]
    if contents.kind is Kind.STATE:
        facts = ["A trained initial state for RWKV-7."]
    if contents.kind in (Kind.TEXT, Kind.WORLD):
        facts.append(f"The state is {state_bytes(contents.config):,} bytes, however long the text.")
    if description.base_model:
        facts.append(f"Base model: [{description.base_model}](https://huggingface.co/{description.base_model}).")
    if description.datasets:
        facts.append(f"Trained on {', '.join(description.datasets)}.")
    return "\n".join(facts)


def _needs(contents: Contents) -> str:
    if contents.kind is Kind.STATE:
        return "With the package `rwkv7-world`:"
    if contents.kind is Kind.ADAPTER:
        return "With `pip install torch transformers peft pillow soundfile soxr`:"
    return (
        "With `pip install torch transformers pillow soundfile soxr`, nothing else; the code is in "
        f"`{CODE_FOLDER}`. A C++ compiler and `ninja` make it faster on a CPU."
    )


def _results_table(results: list[dict]) -> str:
    lines = ["| task | data | split | metric | value |", "|---|---|---|---|---|"]
    for result in results:
        for name, value in result["metrics"].items():
            split = result.get("split") or ""
            lines.append(f"| {result['task']} | {result['dataset']} | {split} | {name} | {value:g} |")
    return "\n".join(lines)
