"""Look objects up by their Keras names, and write them back as Keras dicts."""

import dataclasses
import difflib
import inspect
import math
import numbers
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

# What Keras 3 and Keras 2 write beside "class_name" and "config".
_OTHER_KEYS = {"module", "registered_name", "shared_object_id", "build_config", "compile_config"}
_PACKAGES = {"keras", "tf_keras", "tensorflow", "builtins", "flax_sepconv"}


def named(*classes: type, **aliases: type) -> dict[str, type]:
    """Map the class name and the snake_case name of each class, and the aliases, to classes."""
    known = {cls.__name__: cls for cls in classes}
    return known | {snake_case(name): cls for name, cls in known.items()} | aliases


def snake_case(name: str) -> str:
    """Return Keras' snake_case form of a class name.

    >>> snake_case("MinMaxNorm"), snake_case("L1L2")
    ('min_max_norm', 'l1l2')
    """
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def get(kind: str, known: Mapping[str, type], identifier: Any) -> Any:
    """Resolve None, a name, a dict, a class or a callable to a callable (or None)."""
    if identifier is None:
        return None
    if isinstance(identifier, str):
        return lookup(kind, known, identifier)()
    if isinstance(identifier, Mapping):
        name, config = parse(kind, identifier)
        return build(kind, lookup(kind, known, name), config)
    found = identifier() if inspect.isclass(identifier) else identifier
    if not callable(found):
        raise TypeError(
            f"{kind} must be None, a name, a dict with 'class_name' and 'config', or a callable, "
            f"got {identifier!r}"
        )
    return found


def serialize(kind: str, known: Mapping[str, type], obj: Any) -> dict[str, Any] | None:
    """Return the Keras dict {"class_name": ..., "config": ...} of one of our own objects."""
    if obj is None:
        return None
    cls = type(obj)
    if known.get(cls.__name__) is not cls:
        raise TypeError(
            f"{kind} {obj!r} cannot be serialized: only {', '.join(class_names(known))} can"
        )
    config = {}
    for field in dataclasses.fields(obj):
        value = getattr(obj, field.name)
        if type(value) in known.values():
            value = serialize(kind, known, value)
        elif callable(value):
            raise TypeError(f"{kind} {value!r} inside {cls.__name__} cannot be serialized")
        if isinstance(value, np.ndarray):
            value = value.tolist()
        config[field.name] = list(value) if isinstance(value, tuple) else value
    return {"class_name": cls.__name__, "config": config}


def class_names(known: Mapping[str, type]) -> list[str]:
    """List the class names among the known names, sorted."""
    return sorted({cls.__name__ for cls in known.values()})


def lookup(kind: str, known: Mapping[str, Any], name: str) -> Any:
    """Return what a name stands for; an unknown one is a ValueError that lists the known ones."""
    if name in known:
        return known[name]
    close = difflib.get_close_matches(snake_case(name), known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    raise ValueError(f"unknown {kind} {name!r}{hint} Known: {', '.join(sorted(known))}")


def parse(kind: str, identifier: Mapping[str, Any]) -> tuple[str, Any]:
    """Split a Keras dict into its class name and its config."""
    name = identifier.get("class_name")
    unknown = set(identifier) - _OTHER_KEYS - {"class_name", "config"}
    if not isinstance(name, str) or unknown:
        raise ValueError(
            f"{kind} as a dict must have a 'class_name' and a 'config', got {dict(identifier)!r}"
        )
    config = identifier.get("config")
    module = identifier.get("module", "keras")
    registered = identifier.get("registered_name")
    if (
        not isinstance(module, str)
        or module.split(".")[0] not in _PACKAGES
        or not (registered is None or registered in (name, config))
    ):
        raise ValueError(
            f"{kind} {name!r} of module {module!r} is a custom object, not one of Keras' own "
            f"(registered as {registered!r}): it cannot be made from a dict"
        )
    return name, {} if config is None else config


def build(kind: str, cls: type, config: Any) -> Any:
    """Instantiate a dataclass from the config of a Keras dict."""
    if not isinstance(config, Mapping):
        raise TypeError(f"config of {kind} {cls.__name__} must be a dict, got {config!r}")
    fields = [field.name for field in dataclasses.fields(cls)]
    unknown = sorted(set(config) - set(fields))
    if unknown:
        raise ValueError(
            f"{kind} {cls.__name__} has no argument {', '.join(map(repr, unknown))}; "
            f"its arguments are: {', '.join(fields) or 'none'}"
        )
    return cls(**config)


def real(
    name: str, value: Any, low: float = -math.inf, high: float = math.inf, finite: bool = True
) -> int | float:
    """Return a real number as a Python int or float, or raise what is wrong with it."""
    rule = "a finite number" if finite else "a number"
    if low > -math.inf:
        rule += f" >= {low:g}"
    if high < math.inf:
        rule += f" and <= {high:g}"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be {rule}, got {value!r}")
    number = int(value) if isinstance(value, numbers.Integral) else float(value)
    if not low <= number <= high or (finite and math.isinf(number)):  # also catches NaN
        raise ValueError(f"{name} must be {rule}, got {value!r}")
    return number


def axes(name: str, value: Any) -> int | tuple[int, ...]:
    """Return an axis as an int, or a sequence of axes as a tuple of ints."""
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    wrong = f"{name} must be an int or a non-empty sequence of different ints, got {value!r}"
    if not isinstance(value, list | tuple):
        raise TypeError(wrong)
    if any(isinstance(axis, bool) or not isinstance(axis, numbers.Integral) for axis in value):
        raise TypeError(wrong)
    if not value or len(set(value)) != len(value):
        raise ValueError(wrong)
    return tuple(int(axis) for axis in value)
