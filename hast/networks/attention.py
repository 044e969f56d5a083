"""torch's attention as the layers that it is made of.

`nn.MultiheadAttention` computes its projections in one call on parameters of its own, which no hook
reaches. Here each is a Linear module, to be quantized as any other; the answers are the same to
rounding. Products of activations with each other stay in full precision.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_NAMES = ("query", "key", "value")
_OWN = ("in_proj_weight", "in_proj_bias", "q_proj_weight", "k_proj_weight", "v_proj_weight")


def _weight_of(name: str) -> Any:
    """Where queries, keys and values differ in size, torch has a weight for each."""
    return property(
        lambda self: None if self._qkv_same_embed_dim else self.get_submodule(name).weight
    )


class Attention(nn.MultiheadAttention):
    """softmax(QK' / √d) V for each head, between projections of queries, keys and values and one of
    all heads (Vaswani et al., 2017); in eval mode. A module becomes one by `split_projections`:
    whoever holds it, asks for its class or hooks it sees torch's."""

    q_proj_weight, k_proj_weight, v_proj_weight = map(_weight_of, _NAMES)

    @property
    def in_proj_weight(self) -> Any:  # type: ignore[override]
        weights: list[Tensor] = [layer.weight for layer in self._projections()]
        return torch.cat(weights) if self._qkv_same_embed_dim else None

    @property
    def in_proj_bias(self) -> Any:  # type: ignore[override]
        biases: list[Any] = [layer.bias for layer in self._projections()]
        return None if biases[0] is None else torch.cat(biases)

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
        q, k, v = (
            layer(x).transpose(0, batch).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for layer, x in zip(self._projections(), rows, strict=True)
        )  # (N, heads, tokens, d)
        mask = None
        if attn_mask is not None:  # (tokens, tokens), or (N * heads, tokens, tokens)
            added = _added(attn_mask, q)
            mask = added.unflatten(0, q.shape[:2]) if added.ndim == 3 else added
        if key_padding_mask is not None:  # (N, tokens)
            padding = _added(key_padding_mask, q).view(k.shape[0], 1, 1, -1)
            mask = padding if mask is None else mask + padding
        weights = None
        if need_weights:
            scores = q @ k.mT / q.shape[-1] ** 0.5
            weights = (scores if mask is None else scores + mask).softmax(-1)
            heads = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            heads = F.scaled_dot_product_attention(q, k, v, mask)
        answer = self.out_proj(heads.transpose(1, 2).flatten(2).transpose(0, batch))
        if query.ndim == 2:
            return answer.squeeze(0), None if weights is None else weights.squeeze(0)
        return answer, weights

    def _projections(self) -> Sequence[nn.Linear]:
        return [self.get_submodule(name) for name in _NAMES]  # type: ignore[misc]


def split_projections(network: nn.Module) -> None:
    """Make `Attention` of torch's attention in place. Subclasses stay, and what has a forward of
    its own or adds tokens itself."""
    for module in [*network.modules()]:
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False  # they pass whatever is no module of torch's by
        if type(module) is not nn.MultiheadAttention or "forward" in vars(module):
            continue
        if module.add_zero_attn or module.bias_k is not None:
            continue
        weights: Sequence[Tensor]
        weights = module.q_proj_weight, module.k_proj_weight, module.v_proj_weight
        if module.in_proj_weight is not None:
            weights = module.in_proj_weight.chunk(3)
        bias = module.in_proj_bias
        biases = (None, None, None) if bias is None else bias.chunk(3)
        for name in _OWN:
            del module._parameters[name]
        for name, *part in zip(_NAMES, weights, biases, strict=True):
            module.add_module(name, _linear(*part))
        module.__class__ = Attention


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    outs, ins = weight.shape
    layer = nn.Linear(ins, outs, bias=bias is not None, device="meta")
    for name, value in (("weight", weight), ("bias", bias)):
        if value is not None:
            setattr(layer, name, nn.Parameter(value.detach().clone()))
    return layer


def _added(mask: Tensor, like: Tensor) -> Tensor:
    """A mask as what is added to scores: of a Boolean one, minus infinity where it is true."""
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return like.new_zeros(mask.shape).masked_fill(mask, -torch.inf)
