"""Whatever is in a dict, nothing of it runs, and it is read or refused."""

import dataclasses
import json
import sys
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from flax_sepconv.keras.config import arguments_of, config_of
from flax_sepconv.spec import SeparableArguments
from tests import settings
from tests.keras_layers import PLAIN, F, K

_EVENTS: list[str] | None = None


def _listen(event: str, args: tuple[Any, ...]) -> None:
    del args
    if _EVENTS is not None and event in ("import", "exec", "compile", "open", "marshal.loads"):
        _EVENTS.append(event)


def events_of(config: Any) -> list[str]:
    """Return the audited events while a config is read."""
    global _EVENTS
    if not events_of.listens:
        sys.addaudithook(_listen)  # for good: Python cannot remove it
        events_of.listens = True
    _EVENTS = []
    try:
        with pytest.raises((TypeError, ValueError)):
            arguments_of(config)
        return _EVENTS
    finally:
        _EVENTS = None


events_of.listens = False

EVIL = (
    {"class_name": "function", "config": "system", "module": "os", "registered_name": "system"},
    {"class_name": "function", "config": "eval", "module": "builtins"},
    {"class_name": "__import__", "config": {"name": "antigravity"}, "module": "builtins"},
    {"class_name": "Popen", "config": {"args": ["true"]}, "module": "subprocess"},
    {"class_name": "__lambda__", "config": {"value": ["4wEAAAA=", None, None]}},
    {"value": ["4wEAAAA=", None, None]},
    {"class_name": "Lambda", "config": {"function": "print"}, "module": "keras.layers"},
    {"class_name": "__class__", "config": {}, "module": "flax_sepconv.activations"},
    "__import__('os').system('true')",
    "os.system",
)


@pytest.mark.parametrize("evil", EVIL)
def test_nothing_is_run(evil):
    for argument in ("activation", "bias_initializer", "bias_regularizer", "bias_constraint"):
        arguments_of(PLAIN)
        assert events_of(PLAIN | {argument: evil}) == []
    if isinstance(evil, dict):
        assert events_of(evil) == []
        assert events_of(PLAIN | {"dtype": evil}) == []


def test_the_listener_hears():
    class Loud(dict):
        def __contains__(self, key):
            exec("1")
            return super().__contains__(key)

    assert "exec" in events_of(Loud())


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.sampled_from(["", "relu", "Zeros", "L2", "MaxNorm", "config", "class_name", "float32"])
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["class_name", "config", "module", "registered_name", "axis", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
WHOLE = SeparableArguments(
    filters=F,
    kernel_size=K,
    activation={"class_name": "leaky_relu", "config": {"negative_slope": 0.5}},
    depthwise_regularizer="l2",
    bias_constraint="max_norm",
)


@settings.examples(300)
@hypothesis.given(data=st.data())
def test_damaged_configs_are_type_or_value_errors(data: st.DataObject) -> None:
    config = {"class_name": "SeparableConv1D", "config": config_of(WHOLE, "conv")}
    for _ in range(data.draw(st.integers(1, 3))):
        node: Any = config
        while True:
            key = data.draw(st.sampled_from(sorted(node, key=str)) if node else st.just("x"))
            if isinstance(node.get(key), dict) and data.draw(st.booleans()):
                node = node[key]
                continue
            node[key] = data.draw(JSON)
            break
    try:
        found = arguments_of(config)
    except (TypeError, ValueError):
        pass
    else:
        json.dumps(config_of(SeparableArguments(**{k: found[k] for k in found if k in _FIELDS})))


_FIELDS = {field.name for field in dataclasses.fields(SeparableArguments)}
