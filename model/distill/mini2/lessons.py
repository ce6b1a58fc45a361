"""The student's training steps: single views from pure noise, first chunks, stretches, whole clips."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.distill.mini2.clips import Batch, LatentClips
from model.distill.mini2.run import Losses
from model.distill.mini2.scale import CHUNKS, Scale
from model.distill.training.losses import frame_errors, shifted
from model.distill.training.teacher_forcing import Past, TeacherForced, forgotten_in_sight, random_past
from model.spec import ModelSpec
from model.transformer.attention import Bidirectional
from model.transformer.dit import CausalDiT, Context
from model.transformer.sampler import FULL_NOISE, add_noise, clean_from_velocity
from model.words.text import TextEncoder

CONTEXT_NOISE = 0.15  # noise on the student's past, which in use is its own inexact output
HOLES = 0.35  # share of the steps with a pruned past
FORGET = 0.5  # share of the new prompts at which the view is forgotten
LEAST_LEVEL = 0.3  # the sampler never uses less noise
SAMPLER_STEPS = 0.6  # share of the chunks at one of the sampler's own timesteps
WORDS_UNTIL = 0.12  # share of the time: views from pure noise, where only the prompt helps
OWN_PAST_FROM = 0.6  # share of the time from which half of the clips have the student's own past


@dataclass
class Student:
    """The transformer and its text encoder in the training dtype."""

    dit: CausalDiT
    text: TextEncoder

    def context(self, ids: Tensor) -> Context:
        """Ids (B, G, slots, symbols) to cross-attention keys and values (B, G, slots, H, D) per layer."""
        return self.dit.encode_context(self.text(ids.flatten(0, 1)).unflatten(0, ids.shape[:2]))

    @classmethod
    def of(cls, modules: nn.Module) -> Student:
        return cls(modules["dit"], modules["text"])  # type: ignore[index]


class Lessons:
    """Draws the lesson of a step and computes its losses."""

    def __init__(self, clips: LatentClips, scale: Scale, seed: int) -> None:
        self._clips, self._scale, self._spec = clips, scale, scale.spec
        self._generator = torch.Generator(scale.device).manual_seed(seed)
        self._coins = torch.Generator().manual_seed(seed)  # read by the host

    def losses(self, student: Student, step: int, progress: float) -> Losses:
        scale = self._scale
        if progress < WORDS_UNTIL and step % 3:
            return self._still(student, self._clips.batch(self._generator, scale.stills, 1))
        kind = step % 5
        if progress < WORDS_UNTIL or kind == 1:
            return self._beginning(student, self._clips.batch(self._generator, scale.beginnings, 1))
        if kind == 3:
            return self._causal(student, self._clips.batch(self._generator, scale.stretches, 3), "stretch", progress)
        return self._causal(student, self._clips.batch(self._generator, scale.whole, CHUNKS), "clip", progress)

    def _still(self, student: Student, batch: Batch) -> Losses:
        cut = dataclasses.replace(
            batch, latents=batch.latents[:, :1], offsets=batch.offsets[:, :1], control=batch.control[:, :1]
        )
        top = torch.full(cut.latents.shape[:2], FULL_NOISE, device=cut.latents.device)
        error = self._together(student, cut, top).mean()
        return {"loss": error, "still": error}

    def _beginning(self, student: Student, batch: Batch) -> Losses:
        timesteps = self._timesteps(len(batch.latents), 1)
        error = self._together(student, batch, timesteps)
        return {"loss": error.mean(), "first": _mean_at_top(error, timesteps)}

    def _together(self, student: Student, batch: Batch, timesteps: Tensor) -> Tensor:
        """Errors (B, F) at ``timesteps`` (B, F) when all frames see each other, as in a first chunk."""
        noise = self._noise(batch.latents)
        x_t = add_noise(batch.latents, noise, timesteps)
        attention = Bidirectional(batch.positions(self._spec), self._spec)
        velocity = student.dit(x_t, timesteps, student.context(batch.ids), attention, batch.control)
        return frame_errors(velocity, noise - batch.latents, timesteps)

    def _causal(self, student: Student, batch: Batch, name: str, progress: float) -> Losses:
        """Every chunk given the previous chunks, which are slightly noised, often pruned, later partly the student's
        own."""
        timesteps = self._timesteps(*batch.ids.shape[:2])
        past = self._past(batch)
        context = student.context(batch.ids)
        clean = batch.latents
        if progress > OWN_PAST_FROM and torch.rand((), generator=self._coins) < 0.5:
            clean = own_past(student, batch, self._spec, self._noise(clean))
        blur = CONTEXT_NOISE * torch.rand(len(clean), 1, 1, 1, 1, generator=self._generator, device=clean.device)
        clean = clean + blur * self._noise(clean)
        noise = self._noise(clean)
        velocity = forced(student, batch, context, clean, noise, timesteps, self._spec, past)
        error = frame_errors(velocity, noise - batch.latents, timesteps)
        later = error[:, self._spec.chunk_latents :], timesteps[:, self._spec.chunk_latents :]
        return {"loss": error.mean(), name: error.mean(), "later": _mean_at_top(*later)}

    def _past(self, batch: Batch) -> Past:
        """The part of the past that each chunk sees; a new prompt hides what is in its view."""
        words = dataclasses.replace(batch, posed=torch.ones_like(batch.posed))
        dropped = torch.rand(batch.ids.shape[:2], generator=self._generator, device=batch.ids.device) < FORGET
        forgotten = forgotten_in_sight(words.positions(self._spec), batch.new_words() & dropped, self._spec)
        drawn = random_past(self._coins, forgotten.cpu(), self._spec, HOLES)
        return Past(*(t.to(batch.ids.device) for t in (drawn.worth, drawn.budget, drawn.forgotten)))

    def _timesteps(self, size: int, chunks: int) -> Tensor:
        """(B, F): one timestep per chunk, mostly the sampler's own, otherwise spread over its range."""
        spec, device, generator = self._spec, self._scale.device, self._generator
        own = torch.tensor(spec.timesteps, device=device)[
            torch.randint(0, len(spec.timesteps), (size, chunks), generator=generator, device=device)
        ]
        level = shifted(torch.rand(size, chunks, generator=generator, device=device), spec.shift)
        chosen = torch.rand(size, chunks, generator=generator, device=device) < SAMPLER_STEPS
        return torch.where(chosen, own, FULL_NOISE * level.clamp(min=LEAST_LEVEL)).repeat_interleave(
            spec.chunk_latents, 1
        )

    def _noise(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self._generator, device=like.device)


def forced(
    student: Student,
    batch: Batch,
    context: Context,
    clean: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    spec: ModelSpec,
    past: Past | None = None,
) -> Tensor:
    """Velocities (B, F, ...) of ``batch`` at ``timesteps`` (B, F), every chunk after the ``clean`` chunks before it."""
    noisy = add_noise(batch.latents, noise, timesteps)
    out: Tensor = student.dit(
        torch.cat([clean, noisy], 1),
        torch.cat([torch.zeros_like(timesteps), timesteps], 1),
        [(torch.cat([k, k], 1), torch.cat([v, v], 1)) for k, v in context],
        TeacherForced(batch.positions(spec), spec, past),
        torch.cat([batch.control] * 2, 1),
    )[:, clean.shape[1] :]
    return out


@torch.no_grad()
def own_past(student: Student, batch: Batch, spec: ModelSpec, noise: Tensor) -> Tensor:
    """The student's last-step predictions of every chunk (B, F, C, h, w): close to the truth, with its own errors."""
    timesteps = torch.full(batch.latents.shape[:2], spec.timesteps[-1], device=noise.device)
    velocity = forced(student, batch, student.context(batch.ids), batch.latents, noise, timesteps, spec)
    return clean_from_velocity(add_noise(batch.latents, noise, timesteps), velocity, timesteps)


def _mean_at_top(error: Tensor, timesteps: Tensor) -> Tensor:
    """The mean error at full noise, without waiting for the device."""
    top = (timesteps == FULL_NOISE).float()
    return (error.detach() * top).sum() / top.sum().clamp(min=1)
