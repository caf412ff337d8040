"""Contracts: what every quantizer and every search method must do, as test classes to inherit (needs pytest).

bitsmith's own quantizers and methods pass the same checks. In a test module of yours:

    from bitsmith.testing import MethodContract, QuantizerContract

    class TestMyQuantizer(QuantizerContract):
        cases = (2, 4, 8)                               # whatever `make` takes

        def make(self, case):
            return MyQuantizer(bits=case)

        def data(self, case):                           # some thousand numbers whose double reaches every level
            return torch.linspace(-4, 4, 4000)

        def codes(self, case):                          # its integers, worked out without it
            return set(range(-(2 ** (case - 1)) + 1, 2 ** (case - 1)))

    class TestMyMethod(MethodContract):
        @staticmethod
        def make():
            return MyMethod(epochs=1)                   # settings for a search of seconds

Costs and exporters have no public contract yet.
"""

import pytest

pytest.register_assert_rewrite("bitsmith.testing.methods", "bitsmith.testing.quantizers")

from bitsmith.testing.methods import MethodContract, example_problem  # noqa: E402 - asserts are rewritten first
from bitsmith.testing.quantizers import QuantizerContract  # noqa: E402 - likewise

__all__ = ["MethodContract", "QuantizerContract", "example_problem"]
