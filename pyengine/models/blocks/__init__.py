"""Parts that several kinds of networks are made of."""
