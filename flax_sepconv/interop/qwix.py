"""Qwix' rules for convolutions in groups: quantized in the forward pass, and trained.

Qwix 0.1.8 quantizes a convolution in groups, but raises where it is differentiated. This provider
takes its forward pass as it is, integers included, and differentiates the convolution of the
operands that the integers stand for, with the derivative of rounding taken for 1.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
from jax import lax


def qwix_provider(rules: Sequence[Any]) -> Any:
    """Return Qwix' provider for training, for models with depthwise convolutions.

    Of its rules all is honoured that Qwix honours in a convolution: the types of weights and
    activations, how they are calibrated, static ranges (`act_static_scale`), scales of channels or
    none (`disable_channelwise_axes`), and the type of gradients (`bwd_qtype`), which are rounded
    before both products of the backward pass.

    Args:
        rules: `qwix.QuantizationRule`s or `qwix.QtRule`s.

    Returns:
        A `qwix.QtProvider`, for `qwix.quantize_model`.

    Raises:
        ModuleNotFoundError: Qwix is not installed.
        ValueError: while the model runs: a rule has a `tile_size` for a convolution.

    Example:
        >>> import qwix  # doctest: +SKIP
        >>> rules = [qwix.QuantizationRule(weight_qtype="int8", act_qtype="int8")]  # doctest: +SKIP
        >>> trained = qwix.quantize_model(model, qwix_provider(rules))  # doctest: +SKIP

    Source: https://github.com/google/qwix
    """
    return _provider()(rules)


@functools.cache
def _provider() -> type[Any]:
    import qwix
    from qwix._src.core import conv_general_qt

    class QtProvider(qwix.QtProvider):
        """As `qwix_provider` says."""

        def conv_general_dilated(
            self,
            lhs: jax.Array,
            rhs: jax.Array,
            window_strides: Sequence[int],
            padding: str | Sequence[tuple[int, int]],
            lhs_dilation: Sequence[int] | None = None,
            rhs_dilation: Sequence[int] | None = None,
            dimension_numbers: Any = None,
            feature_group_count: int = 1,
            batch_group_count: int = 1,
            precision: lax.PrecisionLike = None,
            preferred_element_type: Any = None,
            out_sharding: Any = None,
        ) -> jax.Array:
            """Compute `jax.lax.conv_general_dilated` as the rules have it."""
            more: dict[str, Any] = {
                "lhs_dilation": lhs_dilation,
                "rhs_dilation": rhs_dilation,
                "dimension_numbers": dimension_numbers,
                "feature_group_count": feature_group_count,
                "batch_group_count": batch_group_count,
                "out_sharding": out_sharding,
            }
            types = {"precision": precision, "preferred_element_type": preferred_element_type}
            if feature_group_count == 1:
                whole: jax.Array = super().conv_general_dilated(
                    lhs, rhs, window_strides, padding, **more, **types
                )
                return whole
            rule, op_id = self._get_current_rule_and_op_id("conv_general_dilated")
            if rule is None or rule.weight_qtype is None:
                return lax.conv_general_dilated(lhs, rhs, window_strides, padding, **more, **types)
            if rule.tile_size:
                raise ValueError(
                    f"tile_size must be None for convolutions, as in Qwix, got {rule.tile_size}"
                )
            config = _config(rule)
            if rule.act_qtype is not None and rule.act_static_scale:
                collect = functools.partial(
                    self._update_and_get_quant_stat, f"{op_id}_lhs", rule.act_batch_axes
                )
                config = dataclasses.replace(config, lhs_collect_quant_stat=collect)
            y, operands = conv_general_qt.conv_general_qt_fwd(
                lhs,
                rhs,
                config,
                window_strides,
                padding,
                *more.values(),
            )
            x, kernel = (_near(*pair) for pair in zip((lhs, rhs), operands, strict=True))
            exact = lax.conv_general_dilated(x, kernel, window_strides, padding, **more, **types)
            exact = _with_rounded_gradient(exact, config)
            return exact + lax.stop_gradient(y - exact)

    return QtProvider


def _config(rule: Any) -> Any:
    """Return what Qwix makes of a rule, for weights that went through a reshape too."""
    from qwix._src.core.conv_general_qt import ConvGeneralQtConfig

    return ConvGeneralQtConfig(
        lhs_qtype=rule.act_qtype,
        rhs_qtype=rule.weight_qtype,
        lhs_calibration_method=rule.act_calibration_method,
        rhs_calibration_method=rule.weight_calibration_method,
        lhs_disable_channelwise_axes=rule.disable_channelwise_axes,
        rhs_disable_channelwise_axes=rule.disable_channelwise_axes,
        drhs_grad_qtype=rule.bwd_qtype,
        drhs_grad_calibration_method=rule.bwd_calibration_method,
    )


def _near(array: jax.Array, quantized: Any) -> jax.Array:
    """Return what was made of an operand, with the derivative of the operand."""
    import qwix

    if not isinstance(quantized, qwix.QArray):
        return array
    return array + lax.stop_gradient(qwix.dequantize(quantized) - array)


def _with_rounded_gradient(y: jax.Array, config: Any) -> jax.Array:
    """Return y, whose gradient is rounded to the type that the rule has for it, if it has one."""
    import qwix

    qtype, method = config.drhs_grad_qtype, config.drhs_grad_calibration_method
    if qtype is None:
        return y

    @jax.custom_vjp
    def same(y: jax.Array) -> jax.Array:
        return y

    def backward(_: None, gradient: jax.Array) -> tuple[jax.Array]:
        rounded = qwix.quantize(gradient, qtype, calibration_method=method)
        return (qwix.dequantize(rounded),)

    same.defvjp(lambda y: (y, None), backward)
    result: jax.Array = same(y)
    return result
