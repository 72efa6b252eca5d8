import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flax_sepconv.ops import geometry
from tests import oracle, peers

SIZES = {
    "length": st.integers(1, 40),
    "kernel_size": st.integers(1, 12),
    "stride": st.integers(1, 5),
    "dilation": st.integers(1, 5),
    "padding": st.one_of(
        st.sampled_from((*geometry.PADDINGS, *geometry.EDGES)),
        st.tuples(st.integers(0, 20), st.integers(0, 20)),
    ),
}


@given(**SIZES)
@settings(derandomize=True, deadline=None, max_examples=500)
def test_agrees_with_the_definition(length, kernel_size, stride, dilation, padding):
    low, steps = oracle.window(length, kernel_size, stride, dilation, padding)
    assert geometry.output_length(length, kernel_size, stride, dilation, padding) == steps
    if steps <= 0:
        with pytest.raises(ValueError, match="no steps"):
            geometry.resolve(length, kernel_size, stride, dilation, padding)
        return
    found = geometry.resolve(length, kernel_size, stride, dilation, padding)
    assert (found.pad_low, found.output_length) == (low, steps)
    # Padding by (pad_low, pad_high) and reading without padding gives the same steps.
    padded = found.length + found.pad_low + found.pad_high
    assert (padded - found.reach - 1) // stride + 1 == steps
    assert (padded - found.reach - 1) % stride == 0


@given(**SIZES)
@settings(derandomize=True, deadline=None, max_examples=300)
def test_gradient_padding_restores_the_length(length, kernel_size, stride, dilation, padding):
    if geometry.output_length(length, kernel_size, stride, dilation, padding) <= 0:
        return
    found = geometry.resolve(length, kernel_size, stride, dilation, padding)
    dilated = (found.output_length - 1) * stride + 1
    assert dilated + sum(found.input_gradient_padding) - found.reach == length


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("length", [5, 8, 9])
@pytest.mark.parametrize("kernel_size", [2, 3, 4])
def test_same_is_the_rule_of_tensorflow(length, kernel_size, stride):
    tf = peers.tf()
    impulse_response = tf.nn.conv1d(
        tf.reshape(tf.range(1.0, length + 1), (1, length, 1)),
        tf.reshape(tf.constant([1.0] + [0.0] * (kernel_size - 1)), (kernel_size, 1, 1)),
        stride,
        "SAME",
    )
    found = geometry.resolve(length, kernel_size, stride, 1, "same")
    expected = [
        step * stride - found.pad_low + 1 if step * stride >= found.pad_low else 0
        for step in range(found.output_length)
    ]
    assert impulse_response.numpy().ravel().tolist() == expected


def test_error_names_the_lengths():
    with pytest.raises(ValueError, match=r"L=3.*K=4.*S=2.*D=1.*output length 0"):
        geometry.resolve(3, 4, 2, 1, "valid")
