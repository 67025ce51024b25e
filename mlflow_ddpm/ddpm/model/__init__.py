"""The method: U-Net, diffusion, EMA, gradients."""
