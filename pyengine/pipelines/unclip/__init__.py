"""unCLIP: texts to the embeddings of pictures, these to pictures, and these to larger ones."""
