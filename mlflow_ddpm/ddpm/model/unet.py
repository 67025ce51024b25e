"""A compact class-conditional U-Net that predicts the noise, or the velocity, in an image.

Letters: B images, C channels, H height, W width (in pixels outside the stem, in features inside), P patch side,
E size of the embedding, N attention heads, D channels a head, L = H W positions.

A U-Net of residual blocks with self-attention at one size, as in Ho et al. 2020, appendix B; timestep and class scale
and shift within each block (Dhariwal & Nichol 2021, section 3.1, "AdaGN"); one class more stands for "no class given"
(Ho & Salimans 2022, algorithm 1). The stem folds P x P pixels into channels (pixel unshuffle), which makes a step on a
CPU several times as fast for P = 2: see `python tests/bench/run.py --only unet`.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

_GROUPS = 8
_HEAD_CHANNELS = 32
_LONGEST_PERIOD = 10_000.0


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(_GROUPS, channels)


def _zero(layer: nn.Conv2d) -> nn.Conv2d:
    """Start a residual branch's last layer at zero, so that the block starts as the identity."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class _TimeEmbedding(nn.Module):
    """Sines and cosines of the timestep (Ho et al. 2020, appendix B), through a two-layer network."""

    frequencies: Tensor

    def __init__(self, waves: int, size: int) -> None:
        super().__init__()
        half = waves // 2
        exponents = torch.arange(half, dtype=torch.float32) / half
        self.register_buffer("frequencies", torch.exp(-math.log(_LONGEST_PERIOD) * exponents), persistent=False)
        self.layers = nn.Sequential(nn.Linear(2 * half, size), nn.SiLU(), nn.Linear(size, size))

    def forward(self, timestep: Tensor) -> Tensor:
        angles = timestep.float()[:, None] * self.frequencies  # (B, half)
        embedded: Tensor = self.layers(torch.cat([angles.cos(), angles.sin()], dim=1))  # (B, E)
        return embedded


class _ResidualBlock(nn.Module):
    """Two convolutions; the embedding scales and shifts what lies between them."""

    def __init__(self, channels_in: int, channels_out: int, embedding: int) -> None:
        super().__init__()
        self.norm_in = _norm(channels_in)
        self.conv_in = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * channels_out)
        self.norm_out = _norm(channels_out)
        self.conv_out = _zero(nn.Conv2d(channels_out, channels_out, 3, padding=1))
        self.skip = nn.Identity() if channels_in == channels_out else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        h: Tensor = self.conv_in(nnf.silu(self.norm_in(x)))  # (B, C', H, W)
        scale, shift = self.modulation(embedded)[:, :, None, None].chunk(2, dim=1)  # (B, C', 1, 1) each
        h = self.conv_out(nnf.silu(torch.addcmul(shift, self.norm_out(h), 1 + scale)))
        return h.add_(self.skip(x))  # (B, C', H, W); no derivative needs what stood in h


class _SelfAttention(nn.Module):
    """Every position looks at every other."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = channels // _HEAD_CHANNELS if channels % _HEAD_CHANNELS == 0 else 1
        self.norm = _norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = _zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        qkv = self.qkv(self.norm(x)).permute(0, 2, 3, 1)  # (B, H, W, 3C): channels last, so nothing is copied here
        qkv = qkv.reshape(batch, height * width, 3, self.heads, channels // self.heads)  # (B, L, 3, N, D)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, N, L, D) each
        mixed = nnf.scaled_dot_product_attention(q, k, v).transpose(1, 2)  # (B, L, N, D)
        mixed = mixed.reshape(batch, height, width, channels).permute(0, 3, 1, 2)  # (B, C, H, W)
        return torch.add(x, self.out(mixed))  # (B, C, H, W)


class _Stage(nn.Module):
    """A residual block, and attention after it where the feature map has the size for it."""

    def __init__(self, channels_in: int, channels_out: int, embedding: int, *, attention: bool) -> None:
        super().__init__()
        self.residual = _ResidualBlock(channels_in, channels_out, embedding)
        self.attention = _SelfAttention(channels_out) if attention else nn.Identity()

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        h: Tensor = self.attention(self.residual(x, embedded))
        return h


class _Upsample(nn.Conv2d):
    """Doubles height and width by repeating each position, then convolves 3x3, in one step.

    Of the nine taps on repeated positions only four see different ones. Their weights added up are a transposed
    convolution of kernel 4 and stride 2: the same result to rounding, with less than half the products and without the
    repeated map in memory.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        summed = 4 * nnf.avg_pool2d(self.weight, 2, stride=1, padding=1)  # (C, C, 4, 4): sums over 2x2 neighbours
        kernel = summed.flip(2, 3).transpose(0, 1)
        doubled = nnf.conv_transpose2d(x, kernel, stride=2, padding=1)  # (B, C, 2H, 2W)
        return doubled if self.bias is None else doubled.add_(self.bias[:, None, None])  # inside, its gradient is slow


class _Join(torch.autograd.Function):
    """Concatenates two maps by channel, (B, C, H, W) and (B, C', H, W) to (B, C + C', H, W).

    The first one's gradient comes back as a map of its own and not as a slice of the joint one, which each of the two
    convolutions before it would copy for itself.
    """

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor) -> Tensor:
        ctx.channels = first.shape[1]
        return torch.cat([first, second], dim=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        first, second = gradients[0].tensor_split((ctx.channels,), dim=1)
        return first.contiguous(memory_format=torch.channels_last), second


class UNet(nn.Module):
    """Predicts, for noisy images of given classes, what :func:`mlflow_ddpm.ddpm.model.diffusion.target` defines.

    Classes count from 0; ``null_class``, one past the last, stands for "no class given". ``base_channels`` is a
    multiple of 8; ``image_size`` a multiple of ``patch_size`` doubled once for every level after the first.
    """

    def __init__(
        self,
        *,
        classes: int,
        image_size: int,
        base_channels: int = 32,
        channel_mults: Sequence[int] = (1, 2),
        blocks: int = 1,
        patch_size: int = 2,
        attention_size: int = 8,
        image_channels: int = 1,
    ) -> None:
        super().__init__()
        self.architecture: dict[str, int | list[int]] = {  # what this was called with: UNet(**architecture) is its twin
            "classes": classes,
            "image_size": image_size,
            "base_channels": base_channels,
            "channel_mults": list(channel_mults),
            "blocks": blocks,
            "patch_size": patch_size,
            "attention_size": attention_size,
            "image_channels": image_channels,
        }
        self.image_shape = (image_channels, image_size, image_size)
        self.null_class = classes
        self.patch_size = patch_size
        self._attention_size = attention_size
        self._embedding = 4 * base_channels
        widths = [base_channels * mult for mult in channel_mults]
        size = image_size // patch_size
        sizes = [size // 2**i for i in range(len(widths))]
        self.time = _TimeEmbedding(base_channels, self._embedding)
        self.label = nn.Embedding(classes + 1, self._embedding)
        self.stem = nn.Conv2d(image_channels * patch_size**2, widths[0], 3, padding=1)
        skips = self._build_down(widths, sizes, blocks)
        self.middle = nn.ModuleList([self._stage(widths[-1], widths[-1], sizes[-1]) for _ in range(2)])
        self._build_up(widths, sizes, blocks, skips)
        self.norm = _norm(widths[0])
        self.head = _zero(nn.Conv2d(widths[0], image_channels * patch_size**2, 3, padding=1))

    def _stage(self, channels_in: int, channels_out: int, size: int) -> _Stage:
        return _Stage(channels_in, channels_out, self._embedding, attention=size == self._attention_size)

    def _build_down(self, widths: list[int], sizes: list[int], blocks: int) -> list[int]:
        """Build the way down; return the channels of every skip connection."""
        self.down, skips = nn.ModuleList(), [widths[0]]
        for level, (width, size) in enumerate(zip(widths, sizes, strict=True)):
            if level > 0:
                self.down.append(nn.Conv2d(skips[-1], skips[-1], 3, stride=2, padding=1))  # halves H and W
                skips.append(skips[-1])
            for _ in range(blocks):
                self.down.append(self._stage(skips[-1], width, size))
                skips.append(width)
        return skips

    def _build_up(self, widths: list[int], sizes: list[int], blocks: int, skips: list[int]) -> None:
        """Build the way up: one stage more a level than on the way down, each fed one skip connection."""
        self.up, channels = nn.ModuleList(), widths[-1]
        for level in reversed(range(len(widths))):
            for _ in range(blocks + 1):
                self.up.append(self._stage(channels + skips.pop(), widths[level], sizes[level]))
                channels = widths[level]
            if level > 0:
                self.up.append(_Upsample(channels))

    def forward(self, x_t: Tensor, timestep: Tensor, labels: Tensor) -> Tensor:
        """Return the prediction, shaped as ``x_t`` (B, C, H, W), for ``timestep`` (B,) and ``labels`` (B,), int64.

        Raises:
            ValueError: a shape does not fit. Values are not checked: that would wait for the device.
        """
        self._check_shapes(x_t, timestep, labels)
        embedded = nnf.silu(self.time(timestep) + self.label(labels))  # (B, E)
        h = self.stem(nnf.pixel_unshuffle(x_t, self.patch_size))  # (B, C', H/P, W/P)
        skips = [h]
        for layer in self.down:
            h = layer(h, embedded) if isinstance(layer, _Stage) else layer(h)
            skips.append(h)
        for stage in self.middle:
            h = stage(h, embedded)
        for layer in self.up:
            if isinstance(layer, _Stage):
                h = _Join.apply(h, skips.pop())  # type: ignore[no-untyped-call]
            h = layer(h, embedded) if isinstance(layer, _Stage) else layer(h)
        return nnf.pixel_shuffle(self.head(nnf.silu(self.norm(h))), self.patch_size)  # (B, C, H, W)

    def _check_shapes(self, x_t: Tensor, timestep: Tensor, labels: Tensor) -> None:
        if tuple(x_t.shape[1:]) != self.image_shape or timestep.shape != x_t.shape[:1] or labels.shape != x_t.shape[:1]:
            raise ValueError(
                f"expected x_t (B, {', '.join(map(str, self.image_shape))}) with timestep and labels (B,), got "
                f"x_t {tuple(x_t.shape)}, timestep {tuple(timestep.shape)}, labels {tuple(labels.shape)}"
            )
