"""Kandinsky 2.2: texts to the embeddings of pictures, and these to pictures."""
