# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""YAML to dataclasses, strictly: an unknown key or a value of the wrong type is refused by name."""

import dataclasses
import difflib
import re
import types
import typing
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml


_MERGE = "tag:yaml.org,2002:merge"  # the key <<


class _Loader(yaml.SafeLoader):
    """PyYAML reads YAML 1.1, in which 1e-3 is text, no is false, 010 is eight and 12:30 is 750.

    Here they are what they look like, as in the core schema of YAML 1.2. A key that is given twice is refused.
    """

    def construct_mapping(self, node, deep=False):
        plain = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE]
        keys = [self.construct_object(key, deep=True) for key in plain]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)

    def construct_whole_number(self, node) -> int:
        text = self.construct_scalar(node)
        return int(text, 0) if text[:2] in ("0x", "0o") else int(text)


_FLOAT, _BOOL, _INT = "tag:yaml.org,2002:float", "tag:yaml.org,2002:bool", "tag:yaml.org,2002:int"
_OTHERS_THAN_IN_1_2 = (_FLOAT, _BOOL, _INT, "tag:yaml.org,2002:timestamp")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _OTHERS_THAN_IN_1_2]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_INT, re.compile(r"^([-+]?\d+|0o[0-7]+|0x[0-9a-fA-F]+)$"), list("-+0123456789"))
_Loader.add_constructor(_INT, _Loader.construct_whole_number)
_Loader.add_implicit_resolver(_BOOL, re.compile("^(true|false|True|False)$"), list("tfTF"))
_Loader.add_implicit_resolver(
    _FLOAT,
    re.compile(r"^[-+]?(\d+(\.\d*)?[eE][-+]?\d+|\d+\.\d*|\.\d+([eE][-+]?\d+)?|\.inf|\.nan)$"),
    list("-+0123456789."),
)


def parse_yaml(text: str, what: str) -> Any:
    """The value of a YAML text.

    Raises:
        ValueError: If it is no YAML; the message begins with `what`.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{what}: no YAML ({' '.join(str(error).split())})") from error


def read_yaml(path: Path) -> dict:
    """The mapping that a YAML file holds.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds none.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: no text file ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected keys with values, got {type(content).__name__}")
    return content


def set_value(content: dict, assignment: str) -> None:
    """Carries out "key.key=value" on nested mappings and lists, making what is not there; the value is YAML.

    Raises:
        ValueError: If it is no assignment, or goes through something that has no keys.
    """
    keys, equals, text = assignment.partition("=")
    if not equals or not all(keys.split(".")):
        raise ValueError(f"--set {assignment!r}: expected key=value, for instance trainer.max_steps=100")
    *path, last = keys.split(".")
    place = content
    for depth, key in enumerate(path):
        if isinstance(place, dict) and place.get(key) is None:
            place[key] = {}
        if isinstance(place, str):
            raise ValueError(_no_keys(assignment, path[:depth], place))
        place = _member(place, key, ".".join(path[: depth + 1]))
    value = parse_yaml(text, f"--set {assignment}")
    if isinstance(place, list):
        _member(place, last, keys)
        place[int(last)] = value
    elif isinstance(place, dict):
        place[last] = value
    else:
        raise ValueError(_no_keys(assignment, path, place))


def _no_keys(assignment: str, path: list[str], place: Any) -> str:
    key = ".".join(path)
    is_entry = path[-1].isdecimal() and isinstance(place, str)  # of a list of data, where a text is the path alone
    advice = f"; give it keys first, with --set '{key}={{path: {place}}}'" if is_entry else ""
    return f"--set {assignment!r}: {key} is {place!r}, which has no keys{advice}"


def build(kind: type, value: Any, where: str) -> Any:
    """A value of the type `kind`, a dataclass or any annotation, of what a YAML file holds.

    A dataclass with the class attribute `SHORTHAND` may be given as the value of that field alone.

    Args:
        kind: The type.
        value: Mappings, lists and scalars.
        where: File and key, for messages.

    Raises:
        ValueError: If a key is unknown or missing, or a value has another type; one line.
    """
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, value, where)
    origin = get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return _build_union(kind, value, where)
    if origin is list:
        if not isinstance(value, list):
            raise ValueError(f"{where}: expected a list, got {value!r}")
        return [build(get_args(kind)[0], item, f"{where}.{index}") for index, item in enumerate(value)]
    if kind is float and type(value) is int:
        return float(value)
    expected = dict if origin is dict else kind
    if kind is Any or type(value) is expected or (isinstance(kind, type) and issubclass(kind, Enum)):
        return value
    raise ValueError(f"{where}: expected {_name(kind)}, got {value!r}")


def check_keys(content: dict, names: typing.Iterable[str], where: str) -> None:
    """Refuses keys that are none of `names`, with the nearest that is.

    Raises:
        ValueError: Names the key.
    """
    names = list(names)
    for key in content:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            advice = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(names)}"
            raise ValueError(f"{where}: unknown key {key!r}, {advice}")


def _build_dataclass(kind: type, value: Any, where: str) -> Any:
    shorthand = getattr(kind, "SHORTHAND", None)
    if shorthand is not None and isinstance(value, str):
        value = {shorthand: value}
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected keys with values, got {value!r}")
    hints = get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    check_keys(value, fields, where)
    for name, field in fields.items():
        no_default = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if no_default and name not in value:
            raise ValueError(f"{where}: the key {name!r} is missing")
    built = {
        key: build(hints[key], item, f"{where}: {key}" if ":" not in where else f"{where}.{key}")
        for key, item in value.items()
    }
    try:
        return kind(**built)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _build_union(kind: Any, value: Any, where: str) -> Any:
    complaints = []
    for option in get_args(kind):
        if option is type(None):
            if value is None:
                return None
            continue
        try:
            return build(option, value, where)
        except ValueError as error:
            complaints.append(error)
    if len(complaints) == 1:
        raise complaints[0]
    raise ValueError(f"{where}: expected {_name(kind)}, got {value!r}")


def _member(place: Any, key: str, where: str) -> Any:
    if isinstance(place, dict) and key in place:
        return place[key]
    if isinstance(place, list) and key.isdecimal() and int(key) < len(place):
        return place[int(key)]
    raise ValueError(f"--set {where}: there is nothing at {key!r}")


def _name(kind: Any) -> str:
    """A type in words."""
    if get_origin(kind) in (typing.Union, types.UnionType):
        return " or ".join(_name(option) for option in get_args(kind) if option is not type(None))
    words = {str: "text", int: "a whole number", float: "a number", bool: "true or false", dict: "keys with values"}
    base = get_origin(kind) or kind
    return words.get(base, "a list" if base is list else getattr(kind, "__name__", str(kind)))
