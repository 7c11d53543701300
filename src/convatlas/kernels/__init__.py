"""Loops over maps in bf16 that PyTorch lacks, compiled for this processor by numba where that is installed.

PyTorch's operations pass a map through memory once each, and some of them take a number at a time. What is here passes
it once, a vector of channels at a time. numba comes with the extra `fast`; who calls must have another way without it.
"""
