"""InstructPix2Pix: pictures changed as a text says."""
