"""The U-Net and the moving average of its weights."""

from __future__ import annotations

import pytest
import torch

from mlflow_ddpm.ddpm.model.unet import UNet, _Join, _SelfAttention, _Stage, _Upsample

torch.set_num_threads(1)


def awake(model: UNet) -> UNet:
    """Give weight to what starts at zero, so that inputs reach the output."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            if p.abs().sum() == 0:
                p.copy_(torch.randn(p.shape, generator=generator) * 0.1)
    return model


def inputs(count: int, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noisy images, timesteps and labels."""
    generator = torch.Generator().manual_seed(2)
    return torch.randn(count, 1, size, size, generator=generator), torch.arange(count) * 7, torch.arange(count) % 10


@pytest.mark.parametrize(
    ("size", "mults", "patch", "blocks"),
    [(16, (1, 2), 2, 1), (32, (1, 2, 2), 2, 1), (8, (1,), 1, 2), (24, (1, 1), 4, 2)],
)
def test_the_prediction_has_the_shape_of_the_image(size: int, mults: tuple[int, ...], patch: int, blocks: int) -> None:
    """For every depth, stem and number of blocks; and every parameter takes part."""
    model = awake(
        UNet(classes=10, image_size=size, base_channels=8, channel_mults=mults, patch_size=patch, blocks=blocks)
    )
    output = model(*inputs(3, size))
    output.square().mean().backward()

    assert (3, 1, size, size) == tuple(output.shape)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_new_model_predicts_zero() -> None:
    """The head starts at zero, so that the first loss is the target's variance and nothing explodes."""
    assert UNet(classes=10, image_size=16, base_channels=8)(*inputs(2, 16)).abs().max() == 0


def test_class_and_time_change_the_prediction_and_images_do_not_mix() -> None:
    """Each image's prediction depends on its own class and timestep alone."""
    model = awake(UNet(classes=10, image_size=16, base_channels=8)).eval()
    x_t, timestep, labels = inputs(3, 16)
    before = model(x_t, timestep, labels)
    other_class = model(x_t, timestep, torch.tensor([labels[0], labels[1], model.null_class]))
    other_time = model(x_t, torch.tensor([0, 500, int(timestep[2])]), labels)

    assert (other_class[2] - before[2]).abs().max() > 1e-3
    assert (other_time[1] - before[1]).abs().max() > 1e-3
    torch.testing.assert_close(other_class[:2], before[:2])
    torch.testing.assert_close(other_time[[0, 2]], before[[0, 2]])


@pytest.mark.parametrize(("size", "patch", "expected"), [(16, 2, 3), (8, 1, 3), (32, 2, 5), (64, 2, 0)])
def test_attention_sits_where_features_are_eight_wide(size: int, patch: int, expected: int) -> None:
    """One attention after each stage of that level: down, up twice; and twice in the middle if it is the last."""
    model = UNet(classes=10, image_size=size, base_channels=8, channel_mults=(1, 2), patch_size=patch)

    assert expected == sum(type(m).__name__ == "_SelfAttention" for m in model.modules())


@pytest.mark.parametrize("attention", [False, True])
def test_attention_lets_far_corners_see_each_other(*, attention: bool) -> None:
    """One stage has two 3x3 convolutions: without attention a corner is out of the other's reach."""
    torch.manual_seed(0)
    stage = _Stage(8, 8, 32, attention=attention)
    for p in stage.parameters():
        torch.nn.init.normal_(p, std=0.1)  # larger weights saturate the softmax, and its gradient is zero then
    for block in (m for m in stage.modules() if isinstance(m, torch.nn.GroupNorm)):
        block.register_forward_hook(lambda _m, given, _out: given[0])  # its statistics would see the whole map, too
    x = torch.ones(1, 8, 8, 8, requires_grad=True)
    stage(x, torch.zeros(1, 32))[0, :, 0, 0].sum().backward()

    assert x.grad is not None
    assert bool(x.grad[0, :, 7, 7].abs().max() > 0) == attention


def test_doubling_in_one_step_is_repeating_and_then_convolving() -> None:
    """The transposed convolution gives the same map and the same gradients, here to float64's rounding."""
    x = torch.randn(2, 8, 5, 7, dtype=torch.float64, requires_grad=True)
    doubles = _Upsample(8).double()
    repeated = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    expected = torch.nn.functional.conv2d(repeated, doubles.weight, doubles.bias, padding=1)
    given = [x, *doubles.parameters()]
    gradients = [torch.autograd.grad(y.sin().sum(), given, retain_graph=True) for y in (expected, doubles(x))]

    torch.testing.assert_close(doubles(x), expected)
    torch.testing.assert_close(*gradients)


def test_joining_is_concatenation_with_gradients_that_lie_densely() -> None:
    """Values and gradients to the last bit; the first gradient is one that a convolution takes without a copy."""
    first, second = torch.randn(2, 3, 4, 4, requires_grad=True), torch.randn(2, 5, 4, 4, requires_grad=True)
    expected, joined = torch.cat([first, second], dim=1), _Join.apply(first, second)  # type: ignore[no-untyped-call]
    wanted, found = (torch.autograd.grad(y.sin().sum(), (first, second)) for y in (expected, joined))

    assert torch.equal(joined, expected)
    assert torch.equal(found[0], wanted[0])
    assert torch.equal(found[1], wanted[1])
    assert found[0].is_contiguous(memory_format=torch.channels_last)


def test_attention_is_softmax_of_scaled_products() -> None:
    """Head by head, in float64, with the heads' channels side by side (Vaswani et al. 2017, eq. 1)."""
    attention = _SelfAttention(64).double()
    torch.nn.init.normal_(attention.out.weight)
    x = torch.randn(2, 64, 3, 4, dtype=torch.float64)
    q, k, v = attention.qkv(attention.norm(x)).flatten(2).chunk(3, dim=1)  # (B, C, L) each
    mixed = []
    for head in (slice(0, 32), slice(32, 64)):
        weights = (q[:, head].transpose(1, 2) @ k[:, head] / 32**0.5).softmax(dim=-1)  # (B, L, L)
        mixed.append(v[:, head] @ weights.transpose(1, 2))
    expected = x + attention.out(torch.cat(mixed, dim=1).unflatten(2, (3, 4)))

    torch.testing.assert_close(attention(x), expected)


def test_the_memory_layout_changes_nothing_but_rounding() -> None:
    """Channels last, as trained, and channels first give the same prediction."""
    model = awake(UNet(classes=10, image_size=16, base_channels=32)).double().eval()
    x_t, timestep, labels = inputs(3, 16)
    first = model(x_t.double(), timestep, labels)
    last = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    torch.testing.assert_close(last(x_t.double().to(memory_format=torch.channels_last), timestep, labels), first)


@pytest.mark.parametrize(
    "shapes",
    [
        ((2, 1, 8, 8), (2,), (2,)),
        ((2, 3, 16, 16), (2,), (2,)),
        ((2, 1, 16, 16), (1,), (2,)),
        ((2, 1, 16, 16), (2,), (2, 1)),
    ],
)
def test_a_wrong_shape_is_named_with_the_right_one(shapes: tuple[tuple[int, ...], ...]) -> None:
    """At the model's edge, before any layer can complain in its own words."""
    x_t, timestep, labels = (torch.zeros(shape) for shape in shapes)

    with pytest.raises(
        ValueError, match=r"expected x_t \(B, 1, 16, 16\) with timestep and labels \(B,\), got x_t \(2, "
    ):
        UNet(classes=10, image_size=16, base_channels=8)(x_t, timestep.long(), labels.long())
