"""A PictureGPT folder by transformers and diffusers: a token at a time, all rows anew each time."""

import json

import torch
from diffusers import VQModel
from transformers import CLIPTokenizer, LlamaForCausalLM


class Halves:
    """Draws one picture; without a cache or anything else that could go wrong alike."""

    def __init__(self, folder):
        self.gpt = LlamaForCausalLM.from_pretrained(folder / "transformer", dtype="float32").eval()
        self.vq = VQModel.from_pretrained(folder / "vqvae", torch_dtype=torch.float32).eval()
        self.tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        self.tokens = json.loads((folder / "tokens" / "config.json").read_text())
        self.side = self.tokens["side"]

    def ids(self, prompt):
        text = self.tokenizer(prompt).input_ids
        return [
            *(i + self.tokens["first_text_token"] for i in text),
            self.tokens["begin_of_picture"],
        ]

    @torch.no_grad()
    def logits(self, prompt, drawn):
        first = self.tokens["first_picture_token"]
        row = torch.tensor([self.ids(prompt) + [first + token for token in drawn]])
        return self.gpt(row).logits[0, -1, first : first + self.tokens["picture_tokens"]]

    def draw(self, prompt, choose, guidance_scale=1.0, negative="", known=()):
        drawn = list(known)
        while len(drawn) < self.side**2:
            logits = self.logits(prompt, drawn)
            if guidance_scale > 1:
                other = self.logits(negative, drawn)
                logits = other + guidance_scale * (logits - other)
            drawn.append(choose(logits))
        return drawn

    @torch.no_grad()
    def decode(self, tokens):
        """[1, 3, H, W] in [0, 1]."""
        places = torch.tensor(tokens).view(1, self.side, self.side)
        latents = self.vq.quantize.embedding.weight[places].permute(0, 3, 1, 2)
        x = self.vq.decode(latents, force_not_quantize=True).sample
        return (x * 0.5 + 0.5).clamp(0, 1)


def greedy(logits):
    return int(logits.argmax())
