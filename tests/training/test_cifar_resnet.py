"""The CIFAR ResNet's option-A shortcut, pixel by pixel."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from training.cifar_resnet import BasicBlock, CifarResNet


def silence_residual(block: BasicBlock) -> BasicBlock:
    """Make the block's residual zero, so that its output is relu(shortcut)."""
    nn.init.zeros_(block.bn2.weight)
    return block


@pytest.mark.parametrize("width", [16, 5])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_shortcut_takes_every_second_pixel_and_pads_with_zero_channels(
    width: int, layout: torch.memory_format
) -> None:
    block = silence_residual(BasicBlock(width, 2 * width, stride=2))
    x = torch.rand(3, width, 6, 10).to(memory_format=layout)
    out = block(x)
    assert out.shape == (3, 2 * width, 3, 5)
    expected = torch.zeros(3, 2 * width, 3, 5)
    first = width // 2  # half of the `width` new channels come before the old ones
    for channel in range(width):
        for i in range(3):
            for j in range(5):
                expected[:, first + channel, i, j] = x[:, channel, 2 * i, 2 * j]
    torch.testing.assert_close(out, expected, rtol=0, atol=0)
    assert block._shortcut(x).is_contiguous(memory_format=layout), "the sum would have to copy it"


def test_a_block_of_stride_1_adds_its_input() -> None:
    block = silence_residual(BasicBlock(7, 7, stride=1))
    x = torch.rand(2, 7, 5, 4)
    assert torch.equal(block(x), x)


def test_shapes_of_the_stages_and_no_parameters_in_shortcuts() -> None:
    network = CifarResNet(width=3, blocks_per_stage=2)
    shapes = {}
    for name in ("layer1", "layer2", "layer3"):
        network.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, out, name=name: shapes.update({name: tuple(out.shape)})
        )
    assert network(torch.rand(2, 3, 32, 24)).shape == (2, 12)
    assert shapes == {"layer1": (2, 3, 32, 24), "layer2": (2, 6, 16, 12), "layer3": (2, 12, 8, 6)}
    kinds = {name.split(".")[-2][:-1] for name, _ in network.named_parameters()}
    assert kinds == {"conv", "bn"}


def test_convolutions_start_from_kaiming_normal() -> None:
    # Fan in of a 3x3 convolution of 64 channels is 576: standard deviation sqrt(2 / 576) = 0.0589.
    torch.manual_seed(0)
    weight = CifarResNet(width=64, blocks_per_stage=1).layer1[0].conv1.weight
    assert weight.std().item() == pytest.approx(0.0589, rel=0.02)
    assert weight.abs().max().item() > 3.5 * 0.0589  # normal, not uniform
