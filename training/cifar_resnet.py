"""The ResNet family of 32 x 32 images: three stages of basic blocks and shortcuts without parameters.

He et al., "Deep Residual Learning for Image Recognition", section 4.2. The papers on CIFAR-LT all say
"ResNet-32" and mean one of two networks: 16 base channels (0.46 M parameters, the standard) or 64 (7.48 M,
GLMC's code). Their accuracies do not compare.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class CifarResNet(nn.Module):
    """3x3 stem, stages of `width`, 2·`width` and 4·`width` channels at stride 1, 2, 2, average pooling.

    (N, 3, H, W) -> (N, 4·width); at 32 x 32 the last feature map is 8 x 8. Every convolution starts from
    `kaiming_normal_` (fan in), as in GLMC's code.
    """

    def __init__(self, width: int, blocks_per_stage: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, 1, blocks_per_stage)
        self.layer2 = _stage(width, 2 * width, 2, blocks_per_stage)
        self.layer3 = _stage(2 * width, 4 * width, 2, blocks_per_stage)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 4·width)."""
        x = F.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return F.adaptive_avg_pool2d(x, 1).flatten(1)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the shortcut of option A."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, ceil(H / stride), ceil(W / stride))."""
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(residual + self._shortcut(x))

    def _shortcut(self, x: Tensor) -> Tensor:
        """Every stride-th pixel; the new channels are zeros, half of them before the old and half after."""
        stride, out_channels = self.conv1.stride[0], self.conv1.out_channels
        new = out_channels - x.shape[1]
        if new == 0:
            return x
        before = new // 2
        return F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, before, new - before))


def _stage(in_channels: int, out_channels: int, stride: int, blocks: int) -> nn.Sequential:
    rest = [BasicBlock(out_channels, out_channels, 1) for _ in range(blocks - 1)]
    return nn.Sequential(BasicBlock(in_channels, out_channels, stride), *rest)
