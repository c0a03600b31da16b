"""Configurations read from TOML, overridden by name, and written back.

A file holds any of the fields of :class:`~sift_graph.train.config.Config`, nested ones as tables. An override is
``name=value`` with a dotted name and a TOML value; a bare word will do for a string, and a word given for a table sets
the table's ``name``.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from sift_graph.errors import UsageError, did_you_mean
from sift_graph.train.check import checked
from sift_graph.train.config import Config, ModelConfig
from sift_graph.train.models import MODELS

__all__ = ["from_mapping", "load_config", "presets", "put", "read_toml", "to_toml"]


def load_config(
    path: str | os.PathLike[str] | None = None,
    sets: Iterable[str] = (),
    *,
    preset: str | None = None,
    classes: int | None = None,
    **overrides: Any,
) -> Config:
    """Read a configuration.

    Parameters
    ----------
    path : path, optional
        A TOML file; left out, the preset or the defaults. What the file says comes after the preset.
    sets : iterable of str
        ``"name=value"``, later ones win: ``"optimizer.lr=0.05"``, ``"method=rigl"``.
    preset : str, optional
        A recipe that comes with the package: one of :func:`presets`.
    classes : int, optional
        How many labels there are, or tokens; for a description. Where no data set is named, a folder of images or a
        text of the size that the model is meant for stands for it, and need not be there.
    **overrides
        Fields of :class:`Config` by name, applied last; None leaves a field alone. For a table, a mapping, or a word
        that sets its ``name``; where that is another one than the file's or the preset's, the rest of their table is
        left out.

    Returns
    -------
    Config
        Checked, with what was left to the model filled in.

    Raises
    ------
    UsageError
        If the file is missing or not TOML, a preset or a name does not exist, or a value does not fit.

    Examples
    --------
    >>> config = load_config(sets=["optimizer.lr=0.05"], family="sparse_wide", sparsity=0.9, model="mlp")
    >>> config.optimizer.lr, config.model.name
    (0.05, 'mlp')
    >>> load_config(preset="cifar100_resnet18").training.epochs
    200
    >>> load_config(model="resnet18", classes=100).data.classes
    100
    """
    values: dict[str, Any] = {}
    where = ""
    if preset is not None:
        values = _nested(Config, read_preset(preset), "")
    if path is not None:
        where = f"{path}: "
        for name, value in read_toml(path).items():
            put(values, name, value, where)
    for name, value in overrides.items():
        given = values.get(name)
        if isinstance(value, str) and isinstance(given, dict) and given.get("name", value) != value:
            values[name] = {}  # another model or data set: the first one's options mean nothing to it
    for item in sets:
        name, equals, text = item.partition("=")
        if not equals:
            raise UsageError(f"--set {item}: expected name=value, for instance optimizer.lr=0.05")
        put(values, name.strip(), _toml_value(text.strip()), f"--set {item}: ")
    for name, value in overrides.items():
        if value is not None:
            put(values, name, value, "")
    if classes is not None:
        put_classes(values, classes)
    return from_mapping(values, where=where)


def put_classes(values: dict[str, Any], classes: int) -> None:
    """Set the number of classes, of the data set that is named or of one of the model's kind and size."""
    model = MODELS.get(values.get("model", {}).get("name", ModelConfig().name))
    if model is None:
        return  # the check that follows says so
    is_text = model.reads == "tokens"
    if "name" not in values.get("data", {}):
        image = {"name": "folder", "image_size": model.size}
        text = {"name": "text", "tokenizer": "bpe", "sequence_length": model.size}
        values["data"] = {**(text if is_text else image), **values.get("data", {})}
    values["data"]["vocabulary" if is_text else "classes"] = classes


def presets() -> list[str]:
    """List the recipes that come with the package.

    Returns
    -------
    list of str
        In alphabetical order.

    Examples
    --------
    >>> "cifar100_resnet18" in presets()
    True
    """
    files = resources.files("sift_graph.train").joinpath("presets").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def read_preset(name: str) -> dict[str, Any]:
    """Read a recipe that comes with the package."""
    known = presets()
    if name not in known:
        raise UsageError(f"unknown preset {name!r}{did_you_mean(name, known)}")
    text = resources.files("sift_graph.train").joinpath("presets", f"{name}.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a TOML file; say which one it was if that cannot be done."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); name a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: is not TOML ({error})") from error


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text  # a bare word: rigl, digits


def put(values: dict[str, Any], name: str, value: Any, where: str) -> None:
    """Set a dotted name in nested mappings, each name checked against :class:`Config`."""
    *tables, last = name.split(".")
    cls: Any = Config
    target = values
    for table in tables:
        kind = field_types(cls).get(table)
        if kind is None or not dataclasses.is_dataclass(kind):
            raise unknown_key(name, where)
        cls, target = kind, target.setdefault(table, {})
    kind = field_types(cls).get(last)
    if kind is None:
        raise unknown_key(name, where)
    if dataclasses.is_dataclass(kind):
        target.setdefault(last, {}).update(_nested(Config, {last: value}, where)[last])
    else:
        target[last] = value


def _nested(cls: Any, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Copy a mapping, with a word that stands for a table turned into that table."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        kind = field_types(cls).get(name)
        if kind is not None and dataclasses.is_dataclass(kind):
            if isinstance(value, str) and "name" in field_types(kind):
                value = {"name": value}
            if not isinstance(value, Mapping):
                raise UsageError(
                    f"{where}{name}: expected a table with any of {', '.join(field_types(kind))}, found {value!r}"
                )
            value = dict(value)
        result[name] = value
    return result


def field_types(cls: Any) -> dict[str, Any]:
    """Fields of a dataclass and their types."""
    return typing.get_type_hints(cls)


def unknown_key(name: str, where: str) -> UsageError:
    """Make the error for a name that does not exist; it suggests the same name in a table, or the nearest one."""
    kinds = field_types(Config)
    tables = {table: field_types(kind) for table, kind in kinds.items() if dataclasses.is_dataclass(kind)}
    table, _, last = name.rpartition(".")
    elsewhere = [f"{other}.{last}" for other, fields in tables.items() if last in fields]
    if elsewhere:
        suggestion = f"; did you mean {elsewhere[0]!r}?"
    elif table in tables:
        suggestion = did_you_mean(name, [f"{table}.{field}" for field in tables[table]])
    else:
        suggestion = did_you_mean(name, kinds)
    return UsageError(f"{where}unknown config key {name!r}{suggestion}")


def from_mapping(values: Mapping[str, Any], *, where: str = "") -> Config:
    """Build a configuration from nested mappings, and check it.

    Parameters
    ----------
    values : mapping
        As a TOML file gives it.
    where : str
        Begins the error messages.

    Returns
    -------
    Config

    Raises
    ------
    UsageError
        If a name does not exist or a value does not fit.
    """
    config: Config = _build(Config, _nested(Config, values, where), "", where)
    return checked(config, where=where)


def _build(cls: Any, values: Mapping[str, Any], prefix: str, where: str) -> Any:
    kinds = field_types(cls)
    made: dict[str, Any] = {}
    for name, value in values.items():
        dotted = prefix + name
        if name not in kinds:
            raise unknown_key(dotted, where)
        kind = kinds[name]
        if dataclasses.is_dataclass(kind):
            made[name] = _build(kind, value, f"{dotted}.", where)
        else:
            made[name] = _converted(kind, value, dotted, where)
    try:
        return cls(**made)
    except UsageError as error:  # of a dataclass that checks itself
        raise UsageError(f"{where}{error}") from error


def _converted(kind: Any, value: Any, dotted: str, where: str) -> Any:
    """Turn a value into its field's type; an integer will do for a float, nothing else is bent."""
    if isinstance(kind, types.GenericAlias):
        if not isinstance(value, list | tuple):
            raise UsageError(f"{where}{dotted}: expected a list, found {value!r}")
        inner = typing.get_args(kind)[0]
        return tuple(_converted(inner, item, dotted, where) for item in value)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise UsageError(f"{where}{dotted}: expected {kind.__name__}, found {value!r}")
    if kind is float and not math.isfinite(value):
        raise UsageError(f"{where}{dotted}: expected a finite number, found {value!r}")
    return value


def to_toml(config: Config) -> str:
    """Write a configuration as TOML; reading it back gives an equal one.

    Parameters
    ----------
    config : Config

    Returns
    -------
    str
    """
    values = dataclasses.asdict(config)
    plain = {name: value for name, value in values.items() if not isinstance(value, dict)}
    lines = [f"{name} = {_as_toml(value)}" for name, value in plain.items()]
    for table, inner in values.items():
        if isinstance(inner, dict):
            lines += ["", f"[{table}]", *(f"{name} = {_as_toml(value)}" for name, value in inner.items())]
    return "\n".join(lines) + "\n"


def _as_toml(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(_as_toml(item) for item in value) + "]"
    return json.dumps(value)  # for strings, numbers and booleans JSON is TOML
