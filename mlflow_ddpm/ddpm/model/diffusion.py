"""The diffusion process: schedule, noising, targets, loss, and the steps back. Pure functions, no training loop.

Letters: B images, C channels, H height, W width, T timesteps. Images lie in [-1, 1]. ``timestep`` t counts from 0 to
T-1, where the papers count from 1 to T. With alpha_bar_t falling from 1 to 0, ``x_t = sqrt(alpha_bar_t) x_0 +
sqrt(1 - alpha_bar_t) eps``, and the velocity is ``v = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x_0``.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Predict = Callable[[Tensor, Tensor], Tensor]  # (x_t (B, C, H, W), timestep (B,)) -> v or eps (B, C, H, W)
ConditionalPredict = Callable[[Tensor, Tensor, Tensor], Tensor]  # the same, with labels (B,) as third argument

_OFFSET = 0.008  # s of eq. 17, so that the first steps add noise no smaller than a pixel value
_BETA_MAX = 0.999  # the paper's clip, without which the last step's beta is 1 and alpha_bar exactly 0


def cosine_alpha_bar(timesteps: int) -> Tensor:
    """Return alpha_bar, (T,) float32: the cosine schedule of Nichol & Dhariwal 2021, eq. 17, with beta <= 0.999.

    It is computed in float64, since near t = 0 it differs from 1 by less than float32 resolves well.
    """
    t = torch.arange(timesteps + 1, dtype=torch.float64)
    f = torch.cos((t / timesteps + _OFFSET) / (1 + _OFFSET) * math.pi / 2) ** 2
    beta = (1 - f[1:] / f[:-1]).clamp(max=_BETA_MAX)
    return torch.cumprod(1 - beta, 0).float()


def q_sample(x_0: Tensor, eps: Tensor, alpha_bar_t: Tensor) -> Tensor:
    """Return x_t given x_0 and the noise: Ho et al. 2020, eq. 4."""
    return alpha_bar_t.sqrt() * x_0 + (1 - alpha_bar_t).sqrt() * eps


def target(prediction: str, x_0: Tensor, eps: Tensor, alpha_bar_t: Tensor) -> Tensor:
    """Return what the model should predict: eps, or v of Salimans & Ho 2022, section 4 and appendix D."""
    if prediction == "eps":
        return eps
    return alpha_bar_t.sqrt() * eps - (1 - alpha_bar_t).sqrt() * x_0


def predicted_x_0(prediction: str, output: Tensor, x_t: Tensor, alpha_bar_t: Tensor) -> Tensor:
    """Return the image that the model's output implies: :func:`target` and :func:`q_sample` solved for x_0."""
    signal, noise = alpha_bar_t.sqrt(), (1 - alpha_bar_t).sqrt()
    return (x_t - noise * output) / signal if prediction == "eps" else signal * x_t - noise * output


def loss_per_image(
    predict: Predict, x_0: Tensor, eps: Tensor, timestep: Tensor, *, alpha_bar: Tensor, prediction: str
) -> Tensor:
    """Return each image's mean squared error, (B,): Ho et al. 2020, eq. 14, for the chosen target.

    Left per image, so that a caller may weigh or group by timestep before the mean.
    """
    alpha_bar_t = alpha_bar[timestep].view(-1, 1, 1, 1)  # (B, 1, 1, 1)
    output = predict(q_sample(x_0, eps, alpha_bar_t), timestep)
    return (output - target(prediction, x_0, eps, alpha_bar_t)).square().mean(dim=(1, 2, 3))


def posterior(x_0: Tensor, x_t: Tensor, alpha_bar_t: Tensor, alpha_bar_s: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance of q(x_s | x_t, x_0), s < t: Ho et al. 2020, eq. 6-7.

    The paper has s = t - 1; with alpha = alpha_bar_t / alpha_bar_s the same formula holds for any stride.
    """
    alpha = alpha_bar_t / alpha_bar_s
    beta = 1 - alpha
    mean = (alpha_bar_s.sqrt() * beta * x_0 + alpha.sqrt() * (1 - alpha_bar_s) * x_t) / (1 - alpha_bar_t)
    return mean, beta * (1 - alpha_bar_s) / (1 - alpha_bar_t)


def ddim_step(x_0: Tensor, x_t: Tensor, alpha_bar_t: Tensor, alpha_bar_s: Tensor) -> Tensor:
    """Return x_s from x_t and the image predicted of it: Song et al. 2021, eq. 12, with sigma = 0."""
    eps = (x_t - alpha_bar_t.sqrt() * x_0) / (1 - alpha_bar_t).sqrt()  # the noise that fits x_0
    return q_sample(x_0, eps, alpha_bar_s)


def ancestral_step(x_0: Tensor, x_t: Tensor, z: Tensor, alpha_bar_t: Tensor, alpha_bar_s: Tensor) -> Tensor:
    """Draw x_s from the posterior with standard normal ``z``: Ho et al. 2020, algorithm 2, variance beta-tilde."""
    mean, variance = posterior(x_0, x_t, alpha_bar_t, alpha_bar_s)
    return mean + variance.sqrt() * z


def strided_timesteps(timesteps: int, steps: int) -> list[int]:
    """Return ``steps`` timesteps, evenly spaced from T-1 down; the last one is 0 unless ``steps`` is 1."""
    return [round(t) for t in torch.linspace(timesteps - 1, 0, steps, dtype=torch.float64).tolist()]


def guide(predict: ConditionalPredict, labels: Tensor, *, null_class: int, guidance_scale: float) -> Predict:
    """Return a predictor for ``labels`` (B,) under classifier-free guidance: Ho & Salimans 2022, eq. 6.

    ``guidance_scale`` is the paper's 1 + w: 0 ignores the class, 1 is plain conditioning and costs one pass, not two.
    """
    if guidance_scale == 1:
        return lambda x_t, timestep: predict(x_t, timestep, labels)
    both = torch.cat([labels, torch.full_like(labels, null_class)])  # (2B,)

    def guided(x_t: Tensor, timestep: Tensor) -> Tensor:
        with_class, without = predict(x_t.repeat(2, 1, 1, 1), timestep.repeat(2), both).chunk(2)  # (B, C, H, W) each
        return without + guidance_scale * (with_class - without)

    return guided


@torch.no_grad()
def sample(
    predict: Predict,
    x_t: Tensor,
    *,
    alpha_bar: Tensor,
    prediction: str,
    steps: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return images (B, C, H, W) in [-1, 1] from the noise ``x_t`` in ``steps`` passes.

    By DDIM, without further randomness; with a generator, on the CPU, by ancestral sampling.
    """
    timesteps = strided_timesteps(len(alpha_bar), steps)
    levels = [*(alpha_bar[t] for t in timesteps), alpha_bar.new_ones(())]  # the clean image's alpha_bar is 1
    for t, alpha_bar_t, alpha_bar_s in zip(timesteps, levels, levels[1:], strict=False):
        output = predict(x_t, torch.full((len(x_t),), t, device=x_t.device))
        x_0 = predicted_x_0(prediction, output, x_t, alpha_bar_t).clamp(-1, 1)  # the range of images
        if generator:
            z = torch.randn(x_t.shape, generator=generator, dtype=x_t.dtype).to(x_t.device)
            x_t = ancestral_step(x_0, x_t, z, alpha_bar_t, alpha_bar_s)
        else:
            x_t = ddim_step(x_0, x_t, alpha_bar_t, alpha_bar_s)
    return x_t
