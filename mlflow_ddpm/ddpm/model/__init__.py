"""The method: U-Net and diffusion."""
