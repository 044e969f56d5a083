"""torch's attention as the layers that it is made of.

`nn.MultiheadAttention` computes its projections in one call on parameters of its own, which no hook
reaches. Here each is a Linear module, to be quantized as any other; the answers are the same to
rounding. Products of activations with each other stay in full precision.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def as_layers(module: nn.Module) -> nn.Module | None:
    """What takes the place of torch's attention; None for all else, subclasses, and attention to
    tokens that the module adds itself."""
    if type(module) is not nn.MultiheadAttention or module.add_zero_attn:
        return None
    return None if module.bias_k is not None else Attention(module)


class Attention(nn.Module):
    """Projections of queries, keys and values, softmax(QK' / √d) V a head, and a projection of all
    heads (Vaswani et al., 2017). Arguments and answers are those of torch's, in eval mode."""

    in_proj_bias = None  # torch's encoder layers pass these modules by where they find one

    def __init__(self, given: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads, self.batch_first = given.num_heads, given.batch_first
        weights: Sequence[Tensor] = (given.q_proj_weight, given.k_proj_weight, given.v_proj_weight)
        if given.in_proj_weight is not None:
            weights = given.in_proj_weight.chunk(3)
        bias = given.in_proj_bias
        biases = (None, None, None) if bias is None else bias.chunk(3)
        self.query, self.key, self.value = map(_linear, weights, biases)
        self.out_proj = _linear(given.out_proj.weight, given.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,  # with it torch asks for the mask as well
    ) -> tuple[Tensor, Tensor | None]:
        batch = 0 if self.batch_first or query.ndim == 2 else 1
        rows = [x if x.ndim == 3 else x.unsqueeze(0) for x in (query, key, value)]
        layers = (self.query, self.key, self.value)
        q, k, v = (
            layer(x).transpose(0, batch).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for layer, x in zip(layers, rows, strict=True)
        )  # (N, heads, tokens, d)
        mask = torch.zeros((), device=q.device)
        if attn_mask is not None:  # (tokens, tokens), or (N * heads, tokens, tokens)
            added = _added(attn_mask)
            mask = mask + (added.unflatten(0, q.shape[:2]) if added.ndim == 3 else added)
        if key_padding_mask is not None:  # (N, tokens)
            mask = mask + _added(key_padding_mask).view(len(k), 1, 1, -1)
        heads = F.scaled_dot_product_attention(q, k, v, mask if mask.ndim else None)
        answer = self.out_proj(heads.transpose(1, 2).flatten(2).transpose(0, batch))
        weights = None
        if need_weights:
            weights = (q @ k.mT / q.shape[-1] ** 0.5 + mask).softmax(-1)
            weights = weights.mean(1) if average_attn_weights else weights
        if query.ndim == 2:
            return answer.squeeze(0), None if weights is None else weights.squeeze(0)
        return answer, weights


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    outs, ins = weight.shape
    layer = nn.Linear(ins, outs, bias=bias is not None, device="meta")
    for name, value in (("weight", weight), ("bias", bias)):
        if value is not None:
            setattr(layer, name, nn.Parameter(value.detach().clone()))
    return layer


def _added(mask: Tensor) -> Tensor:
    """A mask as what is added to scores: of a Boolean one, minus infinity where it is true."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, device=mask.device).masked_fill(mask, -torch.inf)
