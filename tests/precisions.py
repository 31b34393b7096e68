"""Marks of tests that need a CPU with certain instructions."""

import pytest

from vigil.extract.networks.hardware import cpu_computes

needs_bf16 = pytest.mark.skipif(
    not cpu_computes("bf16"), reason="oneDNN does not convolve in bf16 on this CPU"
)
