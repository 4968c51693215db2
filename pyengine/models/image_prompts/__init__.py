"""What makes tokens of pictures that a U-Net attends to beside its text."""
