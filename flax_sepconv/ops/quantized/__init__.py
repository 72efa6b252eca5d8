"""The operation on 8-bit integers: real numbers are whole steps of a scale, counted from a zero."""
