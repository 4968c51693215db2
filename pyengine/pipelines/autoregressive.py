"""What the pipelines of models share that draw one token after another."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..cuda import Record
from ..decoding.call import TokenCall
from ..decoding.decoder import Decoder
from ..decoding.job import TokenJob
from ..decoding.recorded import TokenGraphs
from ..decoding.request import TokenRequest
from ..jobs.job import Call
from ..jobs.output import Report, TokenOutput
from .tokens import TokenPipeline


class AutoregressivePipeline(TokenPipeline[TokenRequest, TokenJob]):
    """Base of the pipelines that draw one token after another, or windows of guesses of them.

    A subclass has `default_size`, `grid`, `_decode`, `_new_decoder`, `_texts` and `_prefix`.
    """

    # --- a subclass's part ------------------------------------------------------------------------

    @property
    def grid(self) -> tuple[int, int]:
        """(height, width) of a picture in tokens."""
        raise NotImplementedError

    def _new_decoder(self) -> Decoder:
        """What draws this model's tokens; it may not refer to the pipeline."""
        raise NotImplementedError

    def _texts(self, r: TokenRequest) -> list[list[int]]:
        """Ids for every picture, then, with guidance, of what each is compared with."""
        raise NotImplementedError

    def _prefix(self, prefix: Any, r: TokenRequest) -> Tensor:
        """The caller's `prefix`, checked: see read_prefix."""
        raise NotImplementedError

    # --- drawing ----------------------------------------------------------------------------------

    @cached_property
    def decoder(self) -> Decoder:
        """What draws tokens, with a cache of keys and values that all jobs share."""
        decoder = self._new_decoder()
        decoder.graphs = self._graphs
        return decoder

    @property
    def graphs(self) -> TokenGraphs | None:
        """CUDA graphs of what the loop does over and over; None elsewhere."""
        return self._graphs

    @graphs.setter
    def graphs(self, graphs: TokenGraphs | None) -> None:
        self._graphs: TokenGraphs | None = graphs
        if "decoder" in vars(self):
            self.decoder.graphs = graphs

    def use_graphs(self, record: Record | None = None) -> None:
        """A token is a CUDA graph from now on. record: given for tests."""
        self.graphs = TokenGraphs(record)

    def _release(self) -> None:
        if "decoder" in vars(self):
            self.decoder.clear()

    # --- jobs -------------------------------------------------------------------------------------

    def _checked(self, arguments: dict[str, Any]) -> TokenRequest:
        given = dict(arguments)
        self._check_size(given.pop("height"), given.pop("width"))
        prefix = given.pop("prefix")
        r = self._request(size=self.default_size, **given)
        r.texts, r.tokens = self._texts(r), self.grid[0] * self.grid[1]
        if prefix is not None:
            r.prefix = self._prefix(prefix, r)
        return r

    def _begin(self, r: TokenRequest, report: Report) -> TokenCall:
        report.decoding = r.decoding
        stage = "encode_prompt" if self.takes_prompt else TokenCall.stage
        with report.stage(stage, self.device):
            jobs = self.decoder.prepare(r)
        return TokenCall(r, report, jobs, self.decoder, self.grid, self._call_back)

    def _step(self, jobs: Sequence[TokenJob]) -> None:
        self.decoder.step(jobs)

    def _picture(self, job: TokenJob) -> Any:
        self.decoder.look([job])
        job.release()
        job.raise_error()
        tokens = torch.tensor([job.whole()], device=self.device).view(1, *self.grid)
        output_type = job.request.output_type
        return tokens[0] if output_type == "latent" else self._decode(tokens, output_type)[0]

    def _preview(self, tokens: Tensor, output_type: str) -> Any:
        """Pictures of tokens [N, h, w] of which some, -1, are not drawn yet."""
        return self._decode(tokens, output_type)

    def _output(self, call: Call[TokenRequest, TokenJob]) -> TokenOutput:
        assert isinstance(call, TokenCall)
        tokens = call.tokens()
        images = self._images(tokens, call.request.output_type, call.report)
        return TokenOutput(images, call.request.seeds, call.report, tokens)
