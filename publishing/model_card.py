# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The model card of what is published: metadata with `model-index`, sizes, how to load it, results.

Results come from evaluation files, each an object or a list of objects
`{"task": ..., "dataset": ..., "split": ..., "metrics": {name: value}, "settings": {...}}`; figures of the training
from the `trainer_state.json` that a run of training leaves beside the model.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from safetensors import safe_open

from ..conversion.folder import read_json
from .contents import ADAPTER_CONFIG, CARD_FILE, Contents, Kind, read_contents, tensor_names
from .licenses import license_problems
from .snippets import is_composite_adapter, write_snippets


PIPELINES = {Kind.TEXT: "text-generation", Kind.WORLD: "image-text-to-text"}
REPO_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# Lines that PEFT adds to the empty template of the Hub's client
PEFT_LINE = re.compile(
    r"### Framework versions|## Training procedure|- PEFT .*|The following `bitsandbytes`.*|- \w+: .*"
)
IN_LAYER = re.compile(r"\blayers\.\d+\.(\w+\.\w+)")  # a module of a layer, in the name of a tensor
TRAINER_STATE = "trainer_state.json"
# Of the figures that a trainer logs, those that say how good the model is
TRAINING_FIGURE = re.compile(r"loss|train_loss|eval_(?!.*(runtime|per_second)$).*")
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
        license_name: Name of a licence that is `other`.
        license_link: Where the text of that is: an address, or a file of the folder.
        base_model: Name on the Hub of the model that this one was made from.
        datasets: Names of the data sets it was trained on.
        results: Evaluation files.
    """

    repo: str
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    base_model: str | None = None
    datasets: tuple[str, ...] = ()
    results: tuple[Path, ...] = ()


def card_problems(contents: Contents, description: Description) -> Iterator[str]:
    """All that keeps a card from being written: no licence that the Hub knows, no base model, results in no format."""
    if contents.kind is None:
        return  # nothing that a card could be about
    folder = contents.folder
    metadata = {}
    try:
        metadata = _own_metadata(folder)
    except (ValueError, yaml.YAMLError) as error:
        yield f"{folder / CARD_FILE}: its metadata cannot be read ({str(error).splitlines()[0]})"
    fields = "license", "license_name", "license_link"
    license, name, link = (getattr(description, field) or metadata.get(field) for field in fields)
    for identifier in license if isinstance(license, list) else [license]:
        yield from (f"{folder}: {problem}" for problem in license_problems(identifier, name, link, contents.files))
    base = description.base_model or ""
    if contents.kind in (Kind.ADAPTER, Kind.STATE) and not is_hub_name(base):
        found = f"its base model is {base!r}, not a name on the Hub; " if base else ""
        first = "upload that first and " if Path(base, "config.json").is_file() else ""
        yield f"{folder}: {found}{first}give --base-model OWNER/NAME, or base_model in the metadata of {CARD_FILE}"
    for file in description.results:
        try:
            read_results(file)
        except ValueError as error:
            yield str(error)


def build_card(contents: Contents, description: Description) -> ModelCard:
    """The card; a `README.md` in the folder keeps what its metadata says, and its text if it was written by hand.

    Raises:
        ValueError: If a file of results is not as it should be.
    """
    own, own_metadata = _own_card(contents.folder), _own_metadata(contents.folder)
    results = [result for file in description.results for result in read_results(file)]
    base = description.base_model if is_hub_name(description.base_model) else None
    if not is_hub_name(own_metadata.get("base_model")):
        own_metadata.pop("base_model", None)  # of the folder where it was trained
    data = ModelCardData(
        license=description.license,
        license_name=description.license_name,
        license_link=description.license_link,
        library_name="peft" if contents.kind is Kind.ADAPTER else "transformers",
        pipeline_tag=_pipeline(contents),
        base_model=base,
        datasets=list(description.datasets) or None,
        tags=_tags(contents, base, own_metadata.get("tags") or []),
        model_name=description.repo.rpartition("/")[2],
        eval_results=[value for result in results for value in _eval_results(result)] or None,
    )
    metadata = own_metadata | data.to_dict()
    metadata.pop("model-index", None)  # which is made of the results again
    by_hand = own is not None and own.text.strip() and MARK not in own.text
    text = own.text.strip() if by_hand else _write_text(contents, description, results)
    known_results = data.eval_results or (own and own.data.eval_results) or None
    name = {"model_name": description.repo.rpartition("/")[2]} if known_results else {}
    metadata = ModelCardData(**metadata, **name, eval_results=known_results)
    return ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n{text}\n")


@contextmanager
def adapter_card(folder: Path) -> Iterator[None]:
    """Around the saving of an adapter: PEFT's empty template gives way to a card of ours, one by hand stays as it was.

    Args:
        folder: Where the adapter is saved.
    """
    path = folder / CARD_FILE
    before = path.read_bytes() if path.is_file() else b""
    yield
    if not (folder / ADAPTER_CONFIG).is_file():
        return
    own = _read_own(before.decode(errors="replace")) if before else None
    if own and MARK not in own.text:
        path.write_bytes(before)  # PEFT replaces the tags, and names the folder of the base model
    else:
        contents = read_contents(folder)
        base = contents.config.get("base_model_name_or_path")
        build_card(contents, Description(folder.name, base_model=base)).save(path)


def base_of_card(folder: Path) -> str | None:
    """The name on the Hub that the metadata of a folder's `README.md` give as `base_model`; of a list its only one."""
    with suppress(ValueError, yaml.YAMLError):  # which `card_problems` tells
        base = _own_metadata(folder).get("base_model")
        base = base[0] if isinstance(base, list) and len(base) == 1 else base
        return base if is_hub_name(base) else None
    return None


def is_hub_name(name) -> bool:
    """Whether this can be the name of a model on the Hub, and is no folder here."""
    return isinstance(name, str) and REPO_NAME.fullmatch(name) is not None and not Path(name).exists()


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


def read_figures(folder: Path) -> dict[str, float]:
    """What a training logged last: steps, epochs, losses, and what its evaluations gave; empty where none is known."""
    figures = {}
    with suppress(ValueError, OSError):
        state = read_json(folder / TRAINER_STATE)
        figures = {"steps": state.get("global_step"), "epochs": state.get("epoch")}
        for logged in state.get("log_history", []):
            figures |= {name: value for name, value in logged.items() if TRAINING_FIGURE.fullmatch(name)}
    return {name: value for name, value in figures.items() if _is_number(value)}


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
    file = folder / CARD_FILE
    return _read_own(file.read_text(encoding="utf-8")) if file.is_file() else None


def _read_own(text: str) -> ModelCard | None:
    """The card with this text, unless it is the empty template that PEFT writes."""
    card = ModelCard(text)
    template = ModelCard.from_template(ModelCardData()).text.splitlines()
    written = [line for line in card.text.splitlines() if line.strip() and not PEFT_LINE.fullmatch(line)]
    return None if written and set(written) <= set(template) else card


def _own_metadata(folder: Path) -> dict:
    card = _own_card(folder)
    return card.data.to_dict() if card else {}


def _pipeline(contents: Contents) -> str | None:
    if contents.kind is Kind.ADAPTER:
        return PIPELINES[Kind.WORLD if is_composite_adapter(contents) else Kind.TEXT]
    return PIPELINES.get(contents.kind)


def _tags(contents: Contents, base: str | None, own: list[str]) -> list[str]:
    tags = ["rwkv", "rwkv-7"]
    if contents.kind in PIPELINES:
        tags.append("custom_code")
    if contents.kind is Kind.ADAPTER:
        tags.append(_method(contents.config).lower().replace(" ", "-"))
        tags += [f"base_model:adapter:{base}"] if base else []
    return tags + [tag for tag in own if tag not in tags and not tag.startswith("base_model:")]


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
    for needs, snippet in write_snippets(contents, description.repo, description.base_model).items():
        parts += [needs, f"```python\n{snippet}```"]
    if figures := read_figures(contents.folder):
        parts += ["## Training", _table(("figure", "value"), figures.items())]
    if results:
        parts += ["## Results", _results_table(results)]
    return "\n\n".join([*parts, MARK])


def _summary(contents: Contents, description: Description) -> str:
    facts = [f"An RWKV-7 {contents.kind}: {num_parameters(contents):,} parameters."]
    if contents.kind is Kind.STATE:
        facts = ["A trained initial state for RWKV-7."]
    if contents.kind is Kind.ADAPTER:
        facts.append(_what_was_trained(contents))
    if contents.kind in (Kind.TEXT, Kind.WORLD):
        facts.append(f"The state is {state_bytes(contents.config):,} bytes, however long the text.")
    if is_hub_name(description.base_model):
        facts.append(f"Base model: [{description.base_model}](https://huggingface.co/{description.base_model}).")
    if description.datasets:
        facts.append(f"Trained on {', '.join(description.datasets)}.")
    return "\n".join(facts)


def _what_was_trained(contents: Contents) -> str:
    """The method of an adapter with its settings, and the modules that it changes."""
    config, modules = contents.config, sorted(_trained_modules(contents))
    names = ("r", "lora_alpha") if config.get("target_modules") else ()
    settings = [f"{name} {config[name]}" for name in names if config.get(name) is not None]
    settings += [name for name in ("use_dora", "use_rslora") if config.get(name)]
    method = f"{_method(config)} ({', '.join(settings)})" if settings else _method(config)
    return f"Method: {method}. Trained: {', '.join(f'`{name}`' for name in modules)}."


def _method(config: dict) -> str:
    """The method of an adapter by its name in papers."""
    kind = str(config.get("peft_type"))
    return {"LORA": "LoRA", "MISS": "MiSS", "STATE_TUNING": "state tuning"}.get(kind, kind.replace("_", " "))


def _trained_modules(contents: Contents) -> set[str]:
    """Names of the modules that an adapter changes, without the number of their layer."""
    names = [name.removeprefix("base_model.model.") for file in contents.weights for name in tensor_names(file)]
    in_layers = {match[1] for name in names if (match := IN_LAYER.search(name))}
    return in_layers | {name.rpartition(".")[0] for name in names if not IN_LAYER.search(name)}


def _results_table(results: list[dict]) -> str:
    rows = (
        (result["task"], result["dataset"], result.get("split") or "", name, value)
        for result in results
        for name, value in result["metrics"].items()
    )
    return _table(("task", "data", "split", "metric", "value"), rows)


def _table(titles: tuple[str, ...], rows: Iterable[tuple]) -> str:
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    lines += [
        f"| {' | '.join(names)} | {value if isinstance(value, int) else f'{value:g}'} |" for *names, value in rows
    ]
    return "\n".join(lines)
