"""The sampler against the same model in a plain cached Python loop of torch modules, run in turns on the same weights.

    python -m benchmarks.sampler [policy=DIRECTORY] [rounds=7] [rows=32,64] [frames=50,100] [threads=1,2] [guidance=1,3]

The plain loop is what one writes first: nn.Linear and nn.LayerNorm modules, keys and values joined by torch.cat,
scaled_dot_product_attention, softmax, torch.multinomial. Prints a markdown table: time of a call, frames a second, the
ratio's median and range over the rounds. Other load on the machine hurts both, so look at the ratio, and at the CPU
seconds of the process beside the wall clock.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from policy.checkpoint import load_policy
from policy.operations import rotate
from policy.port import SamplingSettings
from policy.sampler import Sampler
from policy.text import default_tokenizer
from policy.tiny_musiclm import Block, TinyMusicLM, TinyMusicLMConfig

DEFAULTS = {"policy": "", "rounds": "7", "rows": "32,64", "frames": "50,100", "threads": "1,2", "guidance": "1,3"}


class PlainBlock(nn.Module):
    """A block of torch's own modules with a growing cache."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.heads, self.key_heads, self.head_width = block.heads, block.key_heads, block.head_width
        self.norm_attention, self.norm_hidden = block.norm_attention, block.norm_hidden  # None: a parallel block
        self.qkv, self.attention_out = _plain(block.qkv), _plain(block.attention_out)
        self.hidden, self.hidden_out = _plain(block.hidden), _plain(block.hidden_out)
        self.cache: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor, turns: Tensor | None = None) -> Tensor:
        """x [B, S, D] -> [B, S, D]; S places are added to the cache."""
        normed = self.norm_attention(x)
        heads = self.qkv(normed).unflatten(-1, (-1, self.head_width))
        query_key, value = heads[:, :, : -self.key_heads], heads[:, :, -self.key_heads :].transpose(1, 2)
        if turns is not None:
            query_key = rotate(query_key, turns[:, None])
        query, key = query_key[:, :, : self.heads].transpose(1, 2), query_key[:, :, self.heads :].transpose(1, 2)
        first = self.cache is None
        if self.cache is not None:
            key, value = torch.cat([self.cache[0], key], dim=2), torch.cat([self.cache[1], value], dim=2)
        self.cache = (key, value)
        grouped = self.key_heads != self.heads
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=first, enable_gqa=grouped)
        x = x + self.attention_out(attended.transpose(1, 2).flatten(-2))
        normed = normed if self.norm_hidden is None else self.norm_hidden(x)
        return x + self.hidden_out(F.gelu(self.hidden(normed), approximate="tanh"))


class PlainSampler:
    """The plain loop."""

    def __init__(self, policy: TinyMusicLM) -> None:
        self.policy = policy
        self.temporal = [PlainBlock(block) for block in policy.trunk.blocks]
        self.depth = [PlainBlock(block) for block in policy.depth.blocks]
        self.project = _plain(policy.depth.project)

    @torch.inference_mode()
    def sample(self, text: Tensor, seed: int, frames: int, settings: SamplingSettings) -> tuple[Tensor, Tensor]:
        """text [B, L] -> codes [B, K, T], log-probabilities [B, K, T]."""
        torch.manual_seed(seed)
        trunk, guided = self.policy.trunk, settings.guidance_scale != 1.0
        texts = torch.cat([text, self.policy.null_text(len(text))]) if guided else text
        turns = torch.view_as_complex(trunk.turns)
        for block in self.temporal:
            block.cache = None
        x = trunk.embed_text(texts)
        for block in self.temporal:
            x = block(x, turns[: texts.shape[1]])
        x = trunk.embed_start.expand(len(texts), 1, -1)
        codes, log_probs = [], []
        for t in range(frames):
            place = texts.shape[1] + t
            for block in self.temporal:
                x = block(x, turns[place : place + 1])
            frame, chances = self._frame(trunk.norm(x), settings, len(text))
            codes.append(frame)
            log_probs.append(chances)
            x = trunk.embed_codes(frame + trunk.offsets).sum(1, keepdim=True)
            x = torch.cat([x, x]) if guided else x
        return torch.stack(codes, dim=-1), torch.stack(log_probs, dim=-1)

    def _frame(self, state: Tensor, settings: SamplingSettings, rows: int) -> tuple[Tensor, Tensor]:
        depth, tokens, chances = self.policy.depth, [], []
        for block in self.depth:
            block.cache = None
        x = self.project(state)
        for k in range(len(self.policy.streams)):
            x = x + depth.embed_place[k]
            for block in self.depth:
                x = block(x)
            logits = depth.norm(x)[:, 0] @ depth.heads[k]
            if settings.guidance_scale != 1.0:
                conditioned, null = logits[:rows], logits[rows:]
                logits = null + settings.guidance_scale * (conditioned - null)
            probabilities = F.softmax(logits / settings.temperature, dim=-1)
            token = torch.multinomial(probabilities, 1)
            tokens.append(token)
            chances.append(probabilities.gather(-1, token).log())
            if k + 1 < len(self.policy.streams):
                x = depth.embed_codes(token + depth.offsets[k])
                x = torch.cat([x, x]) if settings.guidance_scale != 1.0 else x
        return torch.cat(tokens, dim=1), torch.cat(chances, dim=1)


def _plain(layer: nn.Linear) -> nn.Linear:
    plain = nn.Linear(layer.in_features, layer.out_features, bias=False)
    plain.weight = layer.weight
    return plain


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """-> (wall seconds, CPU seconds of this process)."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def compare(policy: TinyMusicLM, rows: int, frames: int, guidance: float, rounds: int) -> str:
    """One row of the table."""
    fast, plain = Sampler(policy), PlainSampler(policy)
    settings = SamplingSettings(temperature=0.99, guidance_scale=guidance)
    text = policy.encode_text([f"a slow piano tune with strings, take {row}" for row in range(rows)])
    times: list[tuple[tuple[float, float], tuple[float, float]]] = []
    for turn in range(rounds + 1):  # the first one warms up
        seeds = range(turn * rows, (turn + 1) * rows)
        ours = timed(partial(fast.sample, text, seeds, frames, settings))
        theirs = timed(partial(plain.sample, text, turn, frames, settings))
        times.append((ours, theirs))
    wall = [theirs[0] / ours[0] for ours, theirs in times[1:]]
    cpu = [theirs[1] / ours[1] for ours, theirs in times[1:]]
    ours_s = statistics.median(ours[0] for ours, _ in times[1:])
    theirs_s = statistics.median(theirs[0] for _, theirs in times[1:])
    cells = [
        f"{torch.get_num_threads()} | {rows} | {frames} | {guidance:g}",
        f"{theirs_s * 1e3:.0f} ms | {ours_s * 1e3:.0f} ms | {rows * frames / ours_s:,.0f}",
        f"{statistics.median(wall):.2f} ({min(wall):.2f}..{max(wall):.2f})",
        f"{statistics.median(cpu):.2f} | {os.getloadavg()[0]:.1f}",
    ]
    return "| " + " | ".join(cells) + " |"


def main(arguments: list[str]) -> None:
    """Prints the table."""
    options = DEFAULTS | dict(argument.split("=", 1) for argument in arguments)
    torch.manual_seed(0)
    policy = load_policy(options["policy"]) if options["policy"] else fresh_policy()
    print("| threads | rows | frames | guidance | plain | sampler | frames/s | ratio, wall clock | ratio, CPU | load |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    numbers = {name: [float(part) for part in options[name].split(",")] for name in ("threads", "rows", "frames")}
    for threads in numbers["threads"]:
        torch.set_num_threads(int(threads))
        for rows in numbers["rows"]:
            for frames in numbers["frames"]:
                for guidance in options["guidance"].split(","):
                    line = compare(policy, int(rows), int(frames), float(guidance), int(options["rounds"]))
                    print(line, flush=True)


def fresh_policy() -> TinyMusicLM:
    """Random weights in the default shapes: speed does not ask what was learnt."""
    return TinyMusicLM(TinyMusicLMConfig(), default_tokenizer()).eval()


if __name__ == "__main__":
    main(sys.argv[1:])
