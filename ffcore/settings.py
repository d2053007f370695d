"""Settings that are frozen, checked when they are made, and written where they are used; and the parts made of them.

A bad value raises SettingError: one line that names the setting, the value and what is legal.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, Self, Union, get_args, get_origin

os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # to look for some takes as long as all the rest of it

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from ffcore.errors import SettingError
from ffcore.plugins import digest, is_outside, short

setting = Field
"""A setting: `setting(default, description=..., gt=0)`."""


class Settings(BaseModel):
    """A frozen, checked set of settings. Raises SettingError for an unknown one or a value that is not legal."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=False, protected_namespaces=()
    )

    as_options: ClassVar[bool] = False
    """Whether messages name a setting as an option of a command."""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise SettingError(_in_words(type(self), error)) from error

    @model_validator(mode="before")
    @classmethod
    def _tuples(cls, values: Any) -> Any:
        """JSON and TOML have lists where settings are tuples."""
        if not isinstance(values, Mapping):
            return values
        return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}

    @classmethod
    def made(cls, values: Mapping[str, Any], prefix: str = "") -> Self:
        """Makes settings from a mapping whose keys may have - for _; messages put `prefix` before a setting's name."""
        try:
            return cls(**underscored(values))
        except SettingError as error:
            raise SettingError(prefix + str(error)) from error

    def changed(self, **values: Any) -> Self:
        """Returns a copy with some other values, checked."""
        return type(self)(**{**{name: getattr(self, name) for name in type(self).model_fields}, **values})

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings as JSON-ready values."""
        return {name: _plain(getattr(self, name)) for name in type(self).model_fields}


class Part(Settings):
    """A method, a network, a view, an evaluation: its settings are what it is."""

    part_name: ClassVar[str]
    """The name that it was loaded by."""

    @property
    def called(self) -> str:
        """What people call it."""
        return short(self.part_name)

    def to_dict(self) -> dict[str, Any]:
        """Returns name and settings, and of code outside the package its digest, as JSON-ready values."""
        outside = {"sha256": digest(type(self))} if is_outside(self.part_name) else {}
        return {"name": self.part_name, **super().to_dict(), **outside}


def _plain(value: Any) -> Any:
    if isinstance(value, Settings):
        return value.to_dict()
    return list(map(_plain, value)) if isinstance(value, tuple) else value


def shown(settings: type[Settings]) -> list[dict[str, str]]:
    """Returns each setting with its default, its bounds and its meaning, as people are shown them."""
    return [
        {
            "setting": name,
            "default": "" if field.is_required() or field.default is None else str(field.default),
            "legal": _legal(field),
            "meaning": field.description or "",
        }
        for name, field in settings.model_fields.items()
    ]


def _legal(field: Any) -> str:
    """Returns what values a setting takes: names, or a range."""
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    bounds = [
        f"{word} {getattr(rule, key)}"
        for rule in field.metadata
        for key, word in words.items()
        if getattr(rule, key, None) is not None
    ]
    return ", ".join([*_kinds(field.annotation), *bounds])


def _kinds(annotation: Any) -> list[str]:
    """Returns an annotation in words, or the values that it names."""
    origin, of = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return [_legal(FieldInfo.from_annotation(annotation))]
    if origin is Literal:
        return [str(value) for value in of]
    if origin in (Union, UnionType):
        return [word for kind in of if kind is not type(None) for word in _kinds(kind)]
    if origin is tuple:
        return ["list of " + " or ".join(_kinds(of[0]))]
    return [{int: "whole number", float: "number", str: "text", bool: "true or false"}.get(annotation, "list")]


def read_toml(path: Path, option: str = "--config") -> dict[str, Any]:
    """Reads settings from a TOML file.

    Raises:
        SettingError: where the file is missing or is not TOML; it names the option that gave the path.
    """
    try:
        return underscored(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise SettingError(f"{option} {path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise SettingError(f"{option} {path} is not TOML: {error}") from error


def underscored(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings under their own names: keys may be written as options are, with - or _."""
    return {key.replace("-", "_"): value for key, value in values.items()}


def assigned(words: Iterable[str], parts: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Reads PART.KEY=VALUE: a number, true or false, a "text" or [list] as TOML has them, or else text.

    Args:
        words: such as `method.threshold=50`.
        parts: what may stand before the dot.

    Returns:
        part -> key -> value.

    Raises:
        SettingError: for a word of another form or an unknown part.
    """
    parts = list(parts)
    found: dict[str, dict[str, Any]] = {}
    for word in words:
        name, equals, text = word.partition("=")
        part, dot, key = name.partition(".")
        if not (equals and dot and key):
            raise SettingError(f"{word!r} is no setting: write PART.KEY=VALUE, such as {parts[0]}.KEY=VALUE")
        if part not in parts:
            near = get_close_matches(part, parts, n=1)
            hint = f"did you mean {near[0]}.{key}? " if near else ""
            raise SettingError(f"{word!r} is no setting: {hint}a part is one of {', '.join(parts)}")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except ValueError:
            value = text
        found.setdefault(part, {})[key.replace("-", "_")] = value
    return found


def _in_words(settings: type[Settings], error: ValidationError) -> str:
    """Returns the first thing that is wrong, in a line."""
    first = error.errors()[0]
    name = ".".join(map(str, first["loc"])) or settings.__name__
    value, context = first["input"], first.get("ctx", {})
    if first["type"] == "extra_forbidden":
        names = sorted(settings.model_fields)
        near = get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        known = f"choose among {', '.join(names)}" if names else "there is none to set"
        return f"{name} (set to {value!r}) is no setting: {hint}{known}"
    if settings.as_options:
        name = "--" + name.replace("_", "-")
    if first["type"] == "missing":
        return f"{name} is missing: give it a value"
    if isinstance(context.get("error"), SettingError):
        return str(context["error"])
    if first["type"] == "literal_error":
        return f"{name} is {value!r}: choose one of {context['expected'].replace(' or ', ', ').replace(chr(39), '')}"
    text = first["msg"].partition(",")[0]
    example = "[1, 2]" if isinstance(value, str) else f"[{str(value).lower()}]"  # as it is written in TOML
    for theirs, ours in (
        ("Input should be a valid ", "it must be a "),
        ("Input should be ", "it must be "),
        ("Value error", "it is not legal"),
        ("Tuple should have", "it must have"),
        ("String should have", "it must have"),
        (" after validation", ""),
    ):
        text = text.replace(theirs, ours)
    for theirs, ours in (
        ("a tuple", f"a list, such as {example}"),
        ("a integer", "a whole number"),
        ("a string", "text"),
        ("a boolean", "true or false"),
        ("greater than or equal to", "at least"),
        ("less than or equal to", "at most"),
        ("greater than", "above"),
        ("less than", "below"),
    ):
        text = text.replace(theirs, ours)
    return f"{name} is {value!r}: {text}"
