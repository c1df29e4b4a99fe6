"""One interaction layer of the native backbone.

Letters: n atoms (rows), e pairs, k radial functions, m components of degree l, c channels, v vector channels.

What was tried and what it cost. Force MAE (meV/Å) on frames held out of the training files of rmd17_ethanol (200), acac (100) and
oc20_debug (120), in brackets the energy MAE of oc20_debug (meV/atom), after 1500, 1000 and 500 steps of 5, 5 and 2 structures with 64/32
channels and 2 layers; cost is CPU time per step relative to the first line, on one core, before the compiled kernels. One seed each:
differences below about 5 % mean nothing.

    variant                                                    ethanol  acac  oc20          cost
    as shipped                                                    16.3  18.5  75.0 (30.3)   1
    AdamW instead of Muon (`unipot.training.muon`)                33.6  40.6  95.5 (32.6)   0.7-0.85
    3 layers                                                      14.7  16.3  72.7 (29.1)   1.5
    96/48 channels                                                15.0  16.2   -            1.7
    without the bound on the size of moments                      15.4  16.3  88.3 (53.6)   1
    a tenth of that bound                                          -     -    79.7 (57.9)   1
    radial functions that do not know the species                 16.0  18.3  77.0 (35.9)   1
    radial functions of each layer from its current scalars       16.9  17.7  78.0 (37.1)   1.1
    radial network twice as wide                                  16.3   -     -            1.1
    second mixes for A1·A1', A2·A2' instead of squares            16.4  17.0  75.9 (28.9)   1.05
    without A1·A2·A1 and tr A2³                                   17.5  18.7  79.2 (37.4)   0.95

So depth and width buy accuracy at their price, the bound on moments is what keeps sets of many elements in hand, and the rest
moves errors within their noise. Level of theory as an input of the backbone beside the heads (a vector per theory, oxides_bo2 PBE and
LDA together, two seeds): 42.7 and 41.9 meV/atom without, 44.5 with, on PBE; not worth having.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from unipot.models.native.moment_invariants import moment_invariants
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
        invariants, directions = moment_invariants(a0, a1, a2, compiled=pairs.compiled)
        gate = torch.sigmoid(self.gate(invariants) + self.gate_state(scalars))
        hidden = self.value(invariants) * gate
        new_vectors = directions * (self.vector_gate(hidden) + 1)[:, None]
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
