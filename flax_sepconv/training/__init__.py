"""Train a residual network of separable convolutions on a UCR/UEA data set.

Run ``python -m flax_sepconv.training --config japanese_vowels``. Nothing else in the
package imports this one; what it needs beyond the core dependencies is the extra ``train``.
"""
