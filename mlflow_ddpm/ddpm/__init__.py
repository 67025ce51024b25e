"""The EMNIST DDPM training pipeline that the tracker is wired into."""
