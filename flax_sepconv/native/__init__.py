"""The C++ kernels, and the library that they are built into."""
