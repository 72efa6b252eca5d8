"""The names that other libraries have for arguments: errors that say what they are called here."""

import difflib
import functools
import inspect
from collections.abc import Callable, Collection
from typing import Any, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., Any])

# What Flax, Keras, PyTorch, Haiku and TF-Slim call an argument, and what it is called here: the
# first that a function has.
_HERE = {
    "filters": "features out_features out_channels output_channels num_filters num_outputs "
    "channels units",
    "kernel_size": "kernel_shape kernel_length filter_size filter_length kernel_width width",
    "strides": "stride window_strides subsample subsample_length",
    "padding": "pad pads padding_mode border_mode",
    "data_format": "data_layout dataformat layout channel_order image_data_format",
    "dilation_rate": "dilation dilations kernel_dilation rhs_dilation rate atrous_rate",
    "depth_multiplier": "channel_multiplier multiplier depthwise_multiplier",
    "activation": "act activation_fn nonlinearity activation_function",
    "use_bias": "bias with_bias add_bias",
    "depthwise_initializer": "depthwise_init depthwise_kernel_init depthwise_kernel_initializer",
    "pointwise_initializer": "pointwise_init pointwise_kernel_init pointwise_kernel_initializer",
    "bias_initializer": "bias_init b_init biases_initializer",
    "depthwise_regularizer": "depthwise_kernel_regularizer",
    "pointwise_regularizer": "pointwise_kernel_regularizer",
    "bias_regularizer": "biases_regularizer",
    "depthwise_constraint": "depthwise_kernel_constraint",
    "pointwise_constraint": "pointwise_kernel_constraint",
    "in_features": "in_channels input_channels input_features input_dim",
    "depthwise_kernel": "kernel depthwise_weights depthwise_filter depthwise_weight rhs",
    "pointwise_kernel": "pointwise_weights pointwise_filter pointwise_weight",
    "inputs": "x input lhs",
    "x": "inputs input lhs",
    "dtype": "compute_dtype",
    "param_dtype": "weight_dtype params_dtype",
    "rngs": "rng key seed",
    "lengths": "seq_lens sequence_lengths lens seq_lengths input_lengths",
    "segment_ids": "seq_idx segments",
    "initial_state": "initial_states conv_state",
    "return_state": "return_final_states",
}
# One there, one for each of both kernels here.
_BOTH = {
    "initializer": "kernel_init kernel_initializer w_init weights_initializer init",
    "regularizer": "kernel_regularizer weights_regularizer w_regularizer regularizer",
    "constraint": "kernel_constraint weights_constraint constraint",
}
_NONE = {
    "groups feature_group_count num_groups": "every channel is a group of its own, and "
    "depth_multiplier says how many filters each has",
    "input_dilation lhs_dilation": "there is no transposed convolution",
    "input_shape batch_input_shape in_features in_channels": "the inputs say how many channels "
    "there are",
    "cu_seqlens cu_seq_lens": "segment_ids say which segment of a row each step is in",
    "conv_general_dilated dot_general promote_dtype": "implementation says how it is computed",
}


def names_arguments(function: Function) -> Function:
    """Let the error about an argument that a function lacks say what it is called here.

    Example:
        >>> @names_arguments
        ... def convolve(x, strides=1):
        ...     return x[::strides]
        >>> convolve([1, 2, 3], stride=2)
        Traceback (most recent call last):
        ...
        TypeError: unknown argument 'stride': it is called 'strides' here
    """
    parameters = inspect.signature(function).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())

    @functools.wraps(function)
    def named(*args: Any, **kwargs: Any) -> Any:
        for name in kwargs:
            if name not in parameters and not takes_any:
                raise TypeError(f"unknown argument {name!r}: {_told(name, parameters)}")
        return function(*args, **kwargs)

    return cast(Function, named)


class ClassSignature:
    """The signature of a class, where its metaclass takes anything, as nnx' does."""

    def __get__(self, instance: Any, owner: type[Any]) -> inspect.Signature:
        if instance is not None:  # That is asked for the method `__call__`.
            raise AttributeError("__signature__")
        signature = inspect.signature(owner.__init__)
        return signature.replace(parameters=list(signature.parameters.values())[1:])


def _told(name: str, known: Collection[str]) -> str:
    """Say what an unknown argument is called here, or what there is."""
    for here, there in _HERE.items():
        if here in known and name in there.split():
            return f"it is called {here!r} here"
    for what, there in _BOTH.items():
        if name in there.split() and f"pointwise_{what}" in known:
            return f"here each kernel has its own, 'depthwise_{what}' and 'pointwise_{what}'"
        if name in there.split() and f"depthwise_{what}" in known:
            return f"it is called 'depthwise_{what}' here"
    for names, reason in _NONE.items():
        if name in names.split():
            return f"there is none here, {reason}"
    public = [each for each in known if each not in ("self", "parent")]
    if close := difflib.get_close_matches(name, public, n=1, cutoff=0.75):
        return f"did you mean {close[0]!r}?"
    return f"it must be one of {', '.join(public)}"
