"""The embedded masked-diffusion model, its tasks and its training script."""
