"""The induction circuit, planted in a model before it reads its first token.

An induction head finds where what was just read stood before, and says what came after it there (Olsson et al., 2022,
"In-context Learning and Induction Heads"). Copying a name from a page is nothing else. Gradient descent has to discover
two layers that help only together, and in a model as small as ours it did not: after 32 million tokens 3 % of the
last of four random repeats were right. Written down, the circuit is a few matrices; planted as a start ("mimetic
initialisation", Trockman & Kolter, 2023), it copies at once and training sharpens it.

    layer 0   query heads 0 and 1 attend one and two tokens back and write what stood there beside the token itself
    layer 1   its first key-value head looks for a place behind the token just read, its second for one behind the
              last two; both write the token of that place where the output head reads it

Everything else begins as usual, save that it writes nothing at first: output and down projections are zero.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor
from transformers import Qwen3ForCausalLM
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention, Qwen3DecoderLayer

CONSTANT = 4.0
"""The first entry of every embedding, in units of the others: what heads read that look at positions only."""
SHARPNESS = 1.8
"""Weight of the norms of queries and keys in both layers: with heads of 64, logits reach 26 instead of 8."""
ANSWER = 3.0
"""How loud the answer is in the residual stream, against the token itself."""
CONFIDENCE = 4.0
"""Weight of the last norm: how far the answer's logit stands out."""


def plant_induction(model: Qwen3ForCausalLM, *, seed: int = 0) -> None:
    """Write the circuit into the first two layers, the embedding and the output head of a fresh `model`.

    Raises:
        ValueError: the output head is tied to the embedding, or there are fewer than two layers or four query heads.
    """
    config = model.config
    if config.tie_word_embeddings or config.num_hidden_layers < 2 or config.num_attention_heads < 4:
        raise ValueError("an induction circuit takes an untied head, two layers and four query heads")
    draw = torch.Generator().manual_seed(seed)
    size, hidden = config.head_dim, config.hidden_size
    token, before, twice_before = _directions(3 * size, hidden, draw).split(size)
    layers = cast("list[Qwen3DecoderLayer]", list(model.model.layers))
    first, second = layers[0].self_attn, layers[1].self_attn
    with torch.no_grad():
        for layer in layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        for norm in (first.q_norm, first.k_norm, second.q_norm, second.k_norm):
            norm.weight.fill_(SHARPNESS)
        _attend_back(model, first, token, (before, twice_before))
        _attend_to_matches(second, token, before, twice_before)
        _answer(model, second, draw)


def _directions(count: int, hidden: int, draw: torch.Generator) -> Tensor:
    """Random directions of the residual stream, [count, hidden]: orthogonal, and none of them the constant one."""
    drawn = torch.randn(hidden - 1, count, generator=draw)
    return torch.cat([torch.zeros(count, 1), torch.linalg.qr(drawn).Q.T], dim=1)


def _attend_back(
    model: Qwen3ForCausalLM, attention: Qwen3Attention, token: Tensor, written: tuple[Tensor, Tensor]
) -> None:
    """Query head h attends h + 1 tokens back, and writes `token` of what stands there along `written[h]`.

    Queries and keys are constant, so that only their rotations count: the logit at distance d is proportional to
    sum_i share_i cos(f_i (d - back)), which the fastest rotation makes sharp and slower ones make unique.
    """
    size, hidden = token.shape
    half = size // 2
    share = torch.zeros(half)
    share[0], share[1 : half * 3 // 8] = 0.5, 0.5 / (half * 3 // 8 - 1)
    unit = model.config.initializer_range
    model.model.embed_tokens.weight[:, 0] = CONSTANT * unit
    attention.k_proj.weight[:size] = 0.0
    attention.k_proj.weight[:half, 0] = share.sqrt()
    attention.v_proj.weight[:size] = token
    for head, along in enumerate(written):
        rows = slice(head * size, (head + 1) * size)
        angles = model.model.rotary_emb.inv_freq * (head + 1)
        attention.q_proj.weight[rows] = 0.0
        attention.q_proj.weight[rows, 0] = torch.cat([share.sqrt() * angles.cos(), -share.sqrt() * angles.sin()])
        attention.o_proj.weight[:, rows] = unit * math.sqrt(hidden / size) * along.T


def _attend_to_matches(attention: Qwen3Attention, token: Tensor, before: Tensor, twice_before: Tensor) -> None:
    """What was just read, sought in what stands behind a place: by the last token, and by the last two.

    Both are compared in the entries that rotate slowest, so that a match counts at any distance.
    """
    size, hidden = token.shape
    half, quarter = size // 2, size // 4
    slow = torch.cat([torch.arange(quarter, half), torch.arange(half + quarter, size)])
    echo = math.sqrt(size / hidden)  # `_attend_back` wrote louder by so much
    one = (token[:half], echo * before[:half])
    late, last = slice(half, half + quarter), slice(half + quarter, size)
    two = (torch.cat([token[late], echo * before[last]]), echo * torch.cat([before[late], twice_before[last]]))
    queries = attention.num_key_value_groups
    for group, (sought, found) in enumerate((one, two)):
        keys, wanted = torch.zeros(size, hidden), torch.zeros(size, hidden)
        keys[slow], wanted[slow] = found, sought
        attention.k_proj.weight[group * size : (group + 1) * size] = keys
        attention.q_proj.weight[group * queries * size : (group + 1) * queries * size] = wanted.repeat(queries, 1)


def _answer(model: Qwen3ForCausalLM, attention: Qwen3Attention, draw: torch.Generator) -> None:
    """The token of the place that was found is written where the output head, the embedding turned, reads it."""
    size, hidden = model.config.head_dim, model.config.hidden_size
    queries = attention.num_key_value_groups
    turn = torch.linalg.qr(torch.randn(hidden, hidden, generator=draw)).Q
    copied = _directions(2 * size, hidden, draw)
    attention.v_proj.weight[: 2 * size] = copied
    loudness = model.config.initializer_range * ANSWER / queries
    for head in range(2 * queries):
        group = copied[head // queries * size : (head // queries + 1) * size]
        attention.o_proj.weight[:, head * size : (head + 1) * size] = loudness * turn @ group.T
    model.lm_head.weight[:] = model.model.embed_tokens.weight @ turn.T
    model.model.norm.weight.fill_(CONFIDENCE)
