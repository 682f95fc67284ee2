"""Coders of weights: buffers in, bytes out. They know nothing of vaults, chunks or stores.

``planes`` codes a tensor's bytes alone, ``delta`` against equally many bytes of a base; ``lowrank`` finds merged
adapters. What they do to words is in ``transforms`` (numpy) and, where the native part is installed, in Rust: both give
the same bytes, and ``native`` picks. Entropy coding is left to standard zstd frames in both.
"""
