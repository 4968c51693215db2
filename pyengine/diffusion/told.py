"""The conditions of pictures that are evaluated together, put together."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

import torch
from torch import Tensor

from ..branches import Adapter, Row
from ..models.unet import TextContext, TimeEmbedding
from .conditions import Conditions, gather
from .denoiser import Denoiser, Encoder
from .image_prompts import gather_further
from .job import DenoisingJob


class Told:
    """What the U-Net is told of a batch's N pictures: a row for each picture and each condition
    that its guidance names.

    The rows are the base conditions of the guided pictures, then the last condition of every
    picture (the text), then what conditions there are between. Where all pictures are unguided, or
    all have classifier-free guidance, that is [N] or [2 N] rows in the order that ops.sampler_step
    takes them; in a mixed batch an unguided picture still takes one row. Where pictures have
    different adapters, the rows of each picture follow each other.

    context: the text's keys and values. extra: [N or rows, ...], what the U-Net is given besides
    the latents, or None.
    """

    def __init__(self, jobs: Sequence[DenoisingJob]):
        names = [job.guidance.conditions for job in jobs]
        guided = [k for k, own in enumerate(names) if len(own) > 1]
        entries = [(k, names[k][0]) for k in guided]
        entries += [(k, own[-1]) for k, own in enumerate(names)]
        entries += [(k, name) for k, own in enumerate(names) for name in own[1:-1]]
        adapters = [_adapters(job) for job in jobs]
        apart = len(list(groupby(adapters, key=_which))) > 1
        if apart:  # rows of one adapter side by side: each run of them costs a product
            entries.sort(key=lambda entry: entry[0])
        self._entries = entries
        self._position = {entry: row for row, entry in enumerate(entries)}
        self._combined = [k for k, job in enumerate(jobs) if job.guidance.scale is None]
        #: Rows per picture where all have as many: in the order of the pictures, once or twice.
        self.times_each = {0: 1, len(jobs): 2}.get(len(guided), 0)
        if len(entries) > 2 * len(jobs) or self._combined or (apart and guided):
            self.times_each = 0
        device = jobs[0].latents.device
        self._pictures = torch.tensor([k for k, _ in entries], device=device)
        #: The rows that count as base and as last output of each picture.
        last = [self._position[k, own[-1]] for k, own in enumerate(names)]
        base = [self._position[k, own[0]] for k, own in enumerate(names)]
        self._outputs = torch.tensor([*base, *last], device=device)
        self._rows = [jobs[k].conditions.row(name, jobs[k].place) for k, name in entries]
        #: Of each row; empty where none has any.
        self.adapters = [adapters[k] for k, _ in entries]
        if not any(self.adapters):
            self.adapters = []
        self.context = self._context(jobs)
        self.extra = self._extra(jobs)
        self.key = self.key_of(jobs)

    @staticmethod
    def key_of(jobs: Sequence[DenoisingJob]) -> tuple[object, ...]:
        """What it depends on: it holds for as long as this is the same."""
        return tuple(
            (
                id(j.conditions),
                j.conditions.version,
                j.guidance.conditions,
                j.guidance.scale is None,
            )
            for j in jobs
        )

    @property
    def entries(self) -> list[tuple[int, str]]:
        """Of each row the picture, by its place among the jobs, and the condition."""
        return self._entries

    def _context(self, jobs: Sequence[DenoisingJob]) -> TextContext:
        contexts = [jobs[k].conditions.context for k, _ in self._entries]
        # Only texts that were filled up are cut: a prior's context holds vectors of other lengths.
        filled = any(job.conditions.text_lengths for job in jobs)
        text = jobs[0].conditions.text_shape(jobs[0].place) if filled else None
        return gather_contexts(contexts, self._rows, None if text is None else text[0])

    def _extra(self, jobs: Sequence[DenoisingJob]) -> Tensor | None:
        conditions = [job.conditions for job in jobs]
        if conditions[0].extra is None:
            return None
        if self.times_each and all(
            c.extra is not None and len(c.extra) == c.count for c in conditions
        ):
            return gather(
                [
                    (c.extra, job.place)
                    for c, job in zip(conditions, jobs, strict=True)
                    if c.extra is not None
                ]
            )
        parts = []
        for k, name in self._entries:
            c = conditions[k]
            assert c.extra is not None
            parts.append((c.extra, c.extra_row(name, jobs[k].place)))
        return gather(parts)

    def model_input(self, x: Tensor) -> Tensor:
        """[rows, ...] from the scaled latents x [N, ...]."""
        if self.times_each:
            return model_input(x, self.extra, self.times_each * len(x))
        x = x[self._pictures]
        return x if self.extra is None else torch.cat([x, self.extra], dim=1)

    def outputs(self, out: Tensor, jobs: Sequence[DenoisingJob]) -> Tensor:
        """What the update takes, [N, ...] or [2 N, ...], from the model's output, a row of each.

        In a mixed batch both halves of an unguided picture are its one output, which guidance then
        leaves as it is, to the bit. Of a picture whose guidance is combined here the first half has
        what that makes, and the other its last condition's output, from which guidance rescale
        counts. Guidance is of the latents' channels: a variance that the network predicts beside
        them is that of a picture's last condition.
        """
        if self.times_each:
            return out
        both, channels = out[self._outputs], jobs[0].latents.shape[1]
        for k in self._combined:
            guidance = jobs[k].guidance
            own = {name: out[self._position[k, name], :channels] for name in guidance.conditions}
            both[k, :channels] = guidance.combine(own)
        return both

    def rows_of(self, k: int) -> list[int]:
        """The rows of the evaluation that are picture k's."""
        return [row for row, (picture, _) in enumerate(self._entries) if picture == k]

    def times(self, unet: Denoiser, jobs: Sequence[DenoisingJob]) -> TimeEmbedding:
        """The embeddings of every row's timestep; one row where all are alike."""
        rows = [(jobs[k].conditions, jobs[k]) for k, _ in self._entries]
        return gather_times(unet, rows, self._rows)

    def source_rows(self, rows: Sequence[int]) -> list[int]:
        """Of these rows of the evaluation, those of the conditions that they are made of."""
        return [self._rows[row] for row in rows]


def gather_contexts(
    contexts: Sequence[TextContext], rows: Sequence[int], length: int | None = None
) -> TextContext:
    """One row after the other: row rows[i] of contexts[i]; of texts that were filled up to be put
    together the first `length` tokens.
    """
    own = {
        id(context): [
            t if length is None or t.shape[1] <= length else t[:, :length].contiguous()
            for t in replace(context, further=()).tensors()
        ]
        for context in contexts
    }
    sources = [own[id(context)] for context in contexts]
    text = TextContext.of(
        [gather(list(zip(tensors, rows, strict=True))) for tensors in zip(*sources, strict=True)]
    )
    further = gather_further([context.further for context in contexts], rows)
    return replace(text, further=further) if further else text


def gather_times(
    network: Encoder, given: Sequence[tuple[Conditions, DenoisingJob]], rows: Sequence[int]
) -> TimeEmbedding:
    """The embeddings of the jobs' timesteps under their conditions, one row after the other: row
    rows[i] of given[i]; one row where all are alike.
    """
    tables: dict[tuple[object, ...], TimeEmbedding] = {}
    own = []
    for conditions, job in given:
        key = conditions, job.plan, job.position
        if key not in tables:
            tables[key] = conditions.times(network, job.plan, job.position)
        own.append(tables[key])
    alike = len(tables) == 1
    first = own[0]
    if not first.rows or (alike and len(first.rows[0]) == 1):
        return first
    if alike and list(rows) == list(range(len(first.rows[0]))):
        return first
    return TimeEmbedding(
        tuple(
            gather(
                [
                    (table.rows[block], 0 if len(table.rows[block]) == 1 else row)
                    for table, row in zip(own, rows, strict=True)
                ]
            )
            for block in range(len(first.rows))
        )
    )


def _adapters(job: DenoisingJob) -> Row:
    """What the network has beside its weights for a picture."""
    own = job.conditions.adapters
    return own[job.place] if own else ()


def _which(row: Row) -> tuple[Adapter, ...]:
    return tuple(adapter for adapter, _ in row)


def model_input(x: Tensor, extra: Tensor | None, rows: int) -> Tensor:
    """What the U-Net is given, [rows, ...], from latents x [N, ...] for rows = N or 2 N, beside
    `extra`, of N or 2 N rows.
    """
    n = len(x)
    if extra is not None and len(extra) == n:
        x = torch.cat([x, extra], dim=1)
    if rows == 2 * n:
        x = torch.cat([x, x])
    return torch.cat([x, extra], dim=1) if extra is not None and len(extra) != n else x
