"""DDPM and DDIM: pictures denoised pixel by pixel."""
