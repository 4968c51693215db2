"""A variational autoencoder of texts: emoji-vae."""
