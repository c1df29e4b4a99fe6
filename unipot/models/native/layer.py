"""One interaction layer of the native backbone.

Letters: n atoms (rows), e pairs, k radial functions, m components of degree l, c channels, v vector channels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from unipot.models.native.moment_products import moment_products
from unipot.models.native.neighborhood import Neighborhood


def scaled_linear(n_in: int, n_out: int, bias: bool = False) -> nn.Linear:
    """A linear map that keeps unit variance at the start."""
    linear = nn.Linear(n_in, n_out, bias=bias)
    nn.init.normal_(linear.weight, std=1 / math.sqrt(n_in))
    if bias:
        nn.init.zeros_(linear.bias)
    return linear


class InteractionLayer(nn.Module):
    """Moments from neighbours, invariants from moments, gated update; see `NativeBackbone`.

    Args:
        n_channels: C, scalar channels.
        n_vector_channels: V, channels of vectors in and out and of the moments of degree 1 and 2.
        n_shapes: (K0, K1, K2) radial functions for l = 0, 1, 2.
        vectors_in: whether the layer receives vectors.
    """

    def __init__(self, *, n_channels: int, n_vector_channels: int, n_shapes: tuple[int, int, int], vectors_in: bool) -> None:
        super().__init__()
        k0, k1, k2 = self.n_shapes = n_shapes
        c, v = n_channels, n_vector_channels
        self.message = scaled_linear(c, c)
        self.mix_scalar = scaled_linear(k0 * c, c)
        self.mix_vector = scaled_linear(k1 * c, v)
        self.mix_tensor = scaled_linear(k2 * c, v)
        self.vectors_in = vectors_in
        if vectors_in:
            self.vector_message = scaled_linear(v, v)
            self.mix_vector_from_vectors = scaled_linear(k0 * v, v)
            self.mix_scalar_from_vectors = scaled_linear(k1 * v, c)
            self.mix_tensor_from_vectors = scaled_linear(k1 * v, v)
        n_invariants = c + 4 * v
        self.value = scaled_linear(n_invariants, 2 * c)
        self.gate = scaled_linear(n_invariants, 2 * c)
        self.gate_state = scaled_linear(c, 2 * c, bias=True)
        self.update = scaled_linear(2 * c, c)
        self.vector_gate = scaled_linear(2 * c, 2 * v)
        self.vector_output = scaled_linear(2 * v, v)

    def forward(
        self, pairs: Neighborhood, radial: Tensor, angular: Tensor, scalars: Tensor, vectors: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Change of the scalars (n, C) and new vectors (n, 3, V).

        Args:
            pairs: neighbours.
            radial: (e, K0+K1+K2).
            angular: (e, 8), degrees 1 and 2.
            scalars: (n, C).
            vectors: (n, 3, V) or None.
        """
        a0, a1, a2 = self._moments(pairs, radial, angular, scalars, vectors)
        squares, cubes, turned = moment_products(a1, a2, compiled=pairs.compiled)
        # one positive number per atom keeps cubic invariants of dense environments in range
        size = a0.square().mean(1, keepdim=True) + squares.sum(1).mean(1, keepdim=True)
        shrink = torch.rsqrt(1 + size)
        square = shrink * shrink
        a0, a1, turned = a0 * shrink, a1 * shrink[:, None], turned * square[:, None]
        invariants = torch.cat([a0, squares.flatten(1) * square, cubes.flatten(1) * (square * shrink)], dim=1)
        gate = torch.sigmoid(self.gate(invariants) + self.gate_state(scalars))
        hidden = self.value(invariants) * gate
        new_vectors = torch.cat([a1, turned], dim=2) * (self.vector_gate(hidden) + 1)[:, None]
        out = self.vector_output(new_vectors)
        return self.update(hidden), out if vectors is None else out + vectors

    def _moments(
        self, pairs: Neighborhood, radial: Tensor, angular: Tensor, scalars: Tensor, vectors: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A0 (n, C), A1 (n, 3, V), A2 (n, 5, V)."""
        m0, m1, m2 = pairs.moments(radial, angular, self.message(scalars), self.n_shapes)
        a0, a1, a2 = self.mix_scalar(m0), self.mix_vector(m1), self.mix_tensor(m2)
        if vectors is None:
            return a0, a1, a2
        k0, k1, _ = self.n_shapes
        m0, m1, m2 = pairs.moments(radial, angular, self.vector_message(vectors), (k0, k1, 0))
        return a0 + self.mix_scalar_from_vectors(m0), a1 + self.mix_vector_from_vectors(m1), a2 + self.mix_tensor_from_vectors(m2)
