"""torch's attention, whose projections become layers."""

import pytest
import torch
from conftest import spec_of
from students import Net, calibrated
from torch import nn

import hast
from hast.networks.given import plain_copy


def attention(**settings) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    module = nn.MultiheadAttention(8, 2, **settings)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module.eval()


def rows(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


CAUSAL = torch.ones(5, 5, dtype=torch.bool).triu(1)
LATE = torch.arange(5).expand(3, 5) > 3


@pytest.mark.parametrize(
    ("settings", "shapes", "how"),
    [
        ({"batch_first": True}, [(3, 5, 8)] * 3, {}),
        ({"batch_first": True}, [(3, 5, 8)] * 3, {"average_attn_weights": False}),
        ({"bias": False}, [(5, 3, 8)] * 3, {"need_weights": False}),
        ({}, [(5, 8)] * 3, {"attn_mask": CAUSAL, "is_causal": True}),
        ({}, [(5, 3, 8), (4, 3, 8), (4, 3, 8)], {"attn_mask": rows(6, 5, 4)}),
        ({"batch_first": True, "dropout": 0.5}, [(3, 5, 8)] * 3, {"attn_mask": rows(5, 5)}),
        ({"batch_first": True}, [(3, 5, 8)] * 3, {"key_padding_mask": LATE, "attn_mask": CAUSAL}),
        ({"kdim": 6, "vdim": 4}, [(5, 3, 8), (7, 3, 6), (7, 3, 4)], {"need_weights": False}),
    ],
    ids=[
        "batch first", "heads apart", "without bias", "no batch, causal", "a mask a head",
        "a mask of floats", "padded", "other sizes",
    ],
)  # fmt: skip
def test_it_answers_as_torch_does(settings, shapes, how):
    given = attention(**settings)
    taken = plain_copy(nn.Sequential(given))[0]
    assert {"query", "key", "value"} < dict(taken.named_children()).keys()
    tokens = [rows(*shape) for shape in shapes]
    for name in ("in_proj_weight", "in_proj_bias", "q_proj_weight"):
        torch.testing.assert_close(getattr(taken, name), getattr(given, name))
    expected, found = (module(*tokens, **how) for module in (given, taken))
    for theirs, ours in zip(expected, found, strict=True):
        assert (theirs is None) == (ours is None)
        if theirs is not None:
            torch.testing.assert_close(ours, theirs)


def encoder() -> nn.Module:
    def compute(net, x):
        return net.head(net.encoder(net.stem(x).flatten(2).mT).mean(1))

    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return Net(
        compute,
        stem=nn.Conv2d(3, 8, 4, 4),
        encoder=nn.TransformerEncoder(layer, 2),
        head=nn.Linear(8, 10),
    ).eval()


def test_an_encoder_is_quantized_down_to_the_products_of_activations():
    spec, network = spec_of((3, 16, 16)), plain_copy(encoder())
    images = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(network(images), encoder()(images))
    student = calibrated(network, spec, bits="w8a8")
    found = hast.coverage(student)
    assert found.weights == 1
    assert {name.rpartition(".")[2] for name in found.full_precision} == {"self_attn"}
    assert (student(images) - network(images)).abs().max() < 0.1 * network(images).std()


@pytest.mark.parametrize("settings", [{"add_bias_kv": True}, {"add_zero_attn": True}])
def test_attention_with_tokens_of_its_own_stays(settings):
    assert type(plain_copy(nn.Sequential(attention(**settings)))[0]) is nn.MultiheadAttention


def test_who_looks_at_a_module_sees_torchs():
    given = attention(batch_first=True)
    given.register_forward_hook(lambda _module, _args, output: (2 * output[0], output[1]))
    taken = plain_copy(Net(lambda net, x: x, attend=given, beside=[given])).attend
    tokens = rows(3, 5, 8)
    torch.testing.assert_close(taken(*[tokens] * 3), given(*[tokens] * 3), atol=1e-4, rtol=1e-4)
    assert isinstance(taken, nn.MultiheadAttention)
    for name in ("in_proj_weight", "in_proj_bias", "embed_dim", "head_dim", "dropout"):
        torch.testing.assert_close(getattr(taken, name), getattr(given, name))


@pytest.mark.filterwarnings("ignore")  # of nested tensors
def test_padded_tokens_of_an_encoder_are_left_out():
    def compute(net, x):
        tokens = net.stem(x).flatten(2).mT
        late = torch.arange(16).expand(len(x), 16) > 9
        return net.head(net.encoder(tokens, src_key_padding_mask=late)[:, :10].mean(1))

    network = encoder()
    network.compute = compute
    images = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(plain_copy(network)(images), network(images))
    assert hast.coverage(calibrated(plain_copy(network), spec_of((3, 16, 16)))).weights == 1
