"""Distribute weight bits over layers: the least expected damage within a size budget.

What a layer loses at each width is measured with all others in full precision, and the sum stands
for the damage of them all together. That is wrong in general (errors add up or cancel), but the
order of the layers survives, and the sum makes the choice a small integer program: one width a
layer, the budget as one linear constraint. It is solved exactly: going greedily by damage per bit
gets stuck where one large layer competes with many small ones.
"""

from collections.abc import Mapping

import numpy as np

Sensitivity = Mapping[str, Mapping[int, float]]  # damage by layer and bits


def allocate_bits(
    sensitivity: Sensitivity, parameters: Mapping[str, int], *, average_bits: float
) -> dict[str, int]:
    """Choose the bits of every layer so that the summed damage is least.

    A binary program with one variable for each layer and width: minimise the damage, subject to
    one width for each layer and sum(parameters * bits) <= average_bits * sum(parameters).

    Args:
        sensitivity: damage of each layer alone at each candidate width, any additive unit.
        parameters: number of weights of each layer.
        average_bits: mean bits of a weight.

    Raises:
        ValueError: even the smallest candidates exceed the budget.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp  # half a second; most runs do without

    layers = list(sensitivity)
    choices = [(layer, bits) for layer in layers for bits in sorted(sensitivity[layer])]
    damage = np.array([max(sensitivity[layer][bits], 0.0) for layer, bits in choices])
    damage /= damage.max() or 1.0  # the solver's tolerances are absolute
    size = np.array([parameters[layer] * bits for layer, bits in choices], dtype=float)
    total = sum(parameters[layer] for layer in layers)
    of_layer = np.array([[layer == other for layer, _ in choices] for other in layers])
    result = milp(
        damage,
        integrality=np.ones(len(choices)),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(of_layer.astype(float), 1, 1),
            LinearConstraint(size / total, -np.inf, average_bits),
        ],
        options={"mip_rel_gap": 0},
    )
    if not result.success:
        smallest = sum(parameters[n] * min(sensitivity[n]) for n in layers) / total
        raise ValueError(
            f"an average of {average_bits} weight bits cannot be reached: the smallest candidates"
            f" already average {smallest:.2f}"
        )
    return {layer: bits for (layer, bits), x in zip(choices, result.x, strict=True) if x > 0.5}
