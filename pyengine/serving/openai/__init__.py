"""OpenAI's images API: what its clients send, and what they wait for."""
