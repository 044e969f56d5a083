"""The built-in teacher: a small ResNet for 8 x 8 handwritten digits."""

from collections.abc import Sequence

from torch import Tensor, nn

from hast.config.spec import ModelSpec

DIGITS_SPEC = ModelSpec(
    input_shape=(1, 8, 8),
    num_classes=10,
    mean=(0.3053,),  # of the training two thirds
    std=(0.3760,),
    class_names=tuple("0123456789"),
)


def _convolution(ins: int, outs: int, size: int, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    """A convolution that keeps height and width, or divides them by its stride, and its norm."""
    return nn.Conv2d(ins, outs, size, stride, size // 2, bias=False), nn.BatchNorm2d(outs)


class ResidualBlock(nn.Module):
    """relu(body(x) + shortcut(x)), (N, C_in, H, W) -> (N, C_out, H / stride, W / stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_convolution(in_channels, out_channels, 3, stride),
            nn.ReLU(),
            *_convolution(out_channels, out_channels, 3),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(*_convolution(in_channels, out_channels, 1, stride))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.body(x) + self.shortcut(x))
        return out


class DigitsResNet(nn.Module):
    """Stem, three stages of one block each, global average pooling, linear classifier."""

    def __init__(self, num_classes: int = 10, widths: Sequence[int] = (16, 32, 64)) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_convolution(1, widths[0], 3), nn.ReLU())
        ins, strides = (widths[0], *widths[:-1]), (1, *[2] * (len(widths) - 1))
        self.stages = nn.Sequential(*map(ResidualBlock, ins, widths, strides))
        self.classifier = nn.Linear(widths[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.stages(self.stem(images))
        logits: Tensor = self.classifier(features.mean(dim=(2, 3)))
        return logits
