"""A small causal transformer with the shapes, names and arithmetic of Llama: what it saves, transformers loads.

    tokens ── embedding ──┬── [ norm ── attention ── + ── norm ── SwiGLU ── + ] x layers ── norm ── logits
                          └──────────── the embedding's rows are the output layer's, too, when tied ──┘

Rotary positions (Su et al. 2021) on queries and keys, RMSNorm before each half of a layer (Zhang, Sennrich 2019),
gated feed-forward (Shazeer 2020), several queries per key where `kv_heads` is smaller than `heads` (Ainslie et al.
2023). Attention is torch's own fused kernel. Nothing here knows the rest of the program: it imports torch alone.

Initial weights are normal with SPREAD; what is added to the stream starts smaller with the number of layers (Radford et
al. 2019), so that deep networks begin as calmly as shallow ones.

`forward` reads whole windows. With a `Cache` it reads on from where it stands, a token at a time if need be.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

SPREAD = 0.02
"""Standard deviation of new weights."""

IGNORED = -100
"""A target that asks for nothing."""


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """What a network looks like: enough to rebuild it."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    inner: int
    """Width of the feed-forward half."""
    context: int
    """Tokens that it was made to see at once."""
    theta: float = 10_000.0
    """Base of the rotary positions' wavelengths."""
    epsilon: float = 1e-5
    """Added to the mean square in each norm."""
    tied: bool = True

    def __post_init__(self) -> None:
        sizes = (self.vocabulary, self.width, self.layers, self.heads, self.kv_heads, self.inner, self.context)
        if min(sizes) < 1 or self.head_width < 2 or self.head_width % 2:
            raise ValueError(f"a transformer's sizes are positive and its heads of even width, got {self}")
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} heads can not share {self.kv_heads} keys evenly")
        if not (0 < self.epsilon < 1 and 1 < self.theta < math.inf):
            raise ValueError(f"epsilon is 0 to 1 and theta above 1, got {self.epsilon} and {self.theta}")

    @property
    def parameters(self) -> int:
        """Numbers that training moves."""
        attention = self.width * self.head_width * 2 * (self.heads + self.kv_heads)
        layer = attention + 3 * self.width * self.inner + 2 * self.width
        return self.layers * layer + self.width + self.vocabulary * self.width * (1 if self.tied else 2)


class Cache:
    """Keys and values of the tokens read so far, per layer: [batch, kv heads, tokens, head width]."""

    def __init__(self) -> None:
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def tokens(self) -> int:
        """How many were read."""
        return self.layers[0][0].shape[2] if self.layers else 0

    def extended(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values of a layer, these new ones at the end."""
        if layer in self.layers:
            old_keys, old_values = self.layers[layer]
            keys, values = torch.cat((old_keys, keys), 2), torch.cat((old_values, values), 2)
        self.layers[layer] = (keys, values)
        return keys, values


class Norm(nn.Module):
    """Divides by the root of the mean square, in float32 at least."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight, self.epsilon = nn.Parameter(torch.ones(width)), epsilon

    def forward(self, stream: Tensor) -> Tensor:
        """Of the same shape."""
        return functional.rms_norm(stream, self.weight.shape, self.weight, self.epsilon)


class Attention(nn.Module):
    """Each token looks at those before it."""

    def __init__(self, shape: Shape, number: int) -> None:
        super().__init__()
        self.shape, self.number = shape, number
        every, kept = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
        self.q_proj = nn.Linear(shape.width, every, bias=False)
        self.k_proj = nn.Linear(shape.width, kept, bias=False)
        self.v_proj = nn.Linear(shape.width, kept, bias=False)
        self.o_proj = nn.Linear(every, shape.width, bias=False)

    def forward(self, stream: Tensor, turns: tuple[Tensor, Tensor], cache: Cache | None) -> Tensor:
        """stream [batch, tokens, width]; turns: cosines and sines of these positions."""
        queries = turned(self._heads(self.q_proj(stream)), turns)
        keys, values = turned(self._heads(self.k_proj(stream)), turns), self._heads(self.v_proj(stream))
        mask = None
        if cache is not None:
            keys, values = cache.extended(self.number, keys, values)
            mask = _mask(queries.shape[2], keys.shape[2], stream.device)
        seen = functional.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=mask,
            is_causal=cache is None,
            enable_gqa=self.shape.heads != self.shape.kv_heads,
        )
        return self.o_proj(seen.transpose(1, 2).flatten(2))

    def _heads(self, flat: Tensor) -> Tensor:
        return flat.unflatten(2, (-1, self.shape.head_width)).transpose(1, 2)


class FeedForward(nn.Module):
    """Each token by itself: down(silu(gate) * up)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.width, shape.inner, bias=False)
        self.up_proj = nn.Linear(shape.width, shape.inner, bias=False)
        self.down_proj = nn.Linear(shape.inner, shape.width, bias=False)

    def forward(self, stream: Tensor) -> Tensor:
        """Of the same shape."""
        return self.down_proj(functional.silu(self.gate_proj(stream)) * self.up_proj(stream))


class Layer(nn.Module):
    """Attention, then feed-forward; each reads the normed stream and adds to it."""

    def __init__(self, shape: Shape, number: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.input_layernorm = Norm(shape.width, shape.epsilon)
        self.self_attn = Attention(shape, number)
        self.post_attention_layernorm = Norm(shape.width, shape.epsilon)
        self.mlp = FeedForward(shape)

    def forward(self, stream: Tensor, turns: tuple[Tensor, Tensor], cache: Cache | None) -> Tensor:
        """Of the same shape."""
        stream = stream + self._drop(self.self_attn(self.input_layernorm(stream), turns, cache))
        return stream + self._drop(self.mlp(self.post_attention_layernorm(stream)))

    def _drop(self, added: Tensor) -> Tensor:
        return functional.dropout(added, self.dropout, self.training) if self.dropout else added


class Trunk(nn.Module):
    """Everything below the output layer."""

    def __init__(self, shape: Shape, dropout: float) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.layers = nn.ModuleList(Layer(shape, number, dropout) for number in range(shape.layers))
        self.norm = Norm(shape.width, shape.epsilon)


class Transformer(nn.Module):
    """Tokens to logits of the token that follows each. dropout: share of what each half of a layer adds that is left
    out in training."""

    cosines: Tensor
    sines: Tensor

    def __init__(self, shape: Shape, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape, self.dropout = shape, dropout
        self.model = Trunk(shape, dropout)
        self.lm_head = None if shape.tied else nn.Linear(shape.width, shape.vocabulary, bias=False)
        self.lay_tables()
        self._start()

    def lay_tables(self) -> None:
        """Make the tables of the rotary positions, which are no part of what is saved."""
        cosines, sines = turns_of(self.shape)
        self.register_buffer("cosines", cosines, persistent=False)
        self.register_buffer("sines", sines, persistent=False)

    def _start(self) -> None:
        added = SPREAD / math.sqrt(2 * self.shape.layers)
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                small = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=added if small else SPREAD)

    def hidden(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        """tokens [batch, n] to [batch, n, width], after the last norm. ValueError beyond the context."""
        first = cache.tokens if cache is not None else 0
        last = first + tokens.shape[1]
        if last > self.shape.context:
            raise ValueError(f"the network sees {self.shape.context} tokens at once, got {last}")
        stream = self.model.embed_tokens(tokens)
        turns = self.cosines[first:last], self.sines[first:last]
        if self.training and self.dropout:
            stream = functional.dropout(stream, self.dropout)
        for layer in self.model.layers:
            stream = layer(stream, turns, cache)
        return self.model.norm(stream)

    def forward(self, tokens: Tensor, cache: Cache | None = None, then: Callable[[Tensor], Any] | None = None) -> Any:
        """tokens [batch, n] to logits [batch, n, vocabulary]. then: what is done with the hidden states instead; inside
        of `forward`, because a network that is shared out among processes is whole only there."""
        return (then or self.logits)(self.hidden(tokens, cache))

    def logits(self, hidden: Tensor) -> Tensor:
        """Of what `hidden` gave."""
        weight = self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight
        return functional.linear(hidden, weight)

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Summed cross-entropy in nats over the targets that are not IGNORED; tokens and targets [batch, n]."""
        logits = self(tokens).flatten(0, 1)
        if logits.dtype.itemsize < 4:
            logits = logits.float()
        return functional.cross_entropy(logits, targets.flatten(), ignore_index=IGNORED, reduction="sum")


def turns_of(shape: Shape) -> tuple[Tensor, Tensor]:
    """Cosines and sines [context, head width] by which positions turn queries and keys; computed in float64."""
    steps = torch.arange(0, shape.head_width, 2, dtype=torch.float64) / shape.head_width
    angles = torch.outer(torch.arange(shape.context, dtype=torch.float64), shape.theta**-steps)
    whole = torch.cat((angles, angles), 1)
    return whole.cos().float(), whole.sin().float()


def turned(heads: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary positions on [batch, heads, tokens, head width]: the first half of a head turns with the second."""
    cosines, sines = turns[0].to(heads.dtype), turns[1].to(heads.dtype)
    first, second = heads.chunk(2, -1)
    return heads * cosines + torch.cat((-second, first), -1) * sines


def _mask(queries: int, keys: int, device: torch.device) -> Tensor | None:
    """Which of `keys` each of the last `queries` tokens sees; None when it is all of them."""
    if queries == 1:
        return None
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


@torch.inference_mode()
def generated(
    network: Transformer, tokens: Tensor, count: int, *, temperature: float, generator: torch.Generator, end: int = -1
) -> list[int]:
    """At most `count` tokens that follow tokens [n], drawn one by one at a temperature above 0; ends before `end`, and
    where the context does."""
    network.eval()
    found: list[int] = []
    cache, following = Cache(), tokens[None, -network.shape.context :]
    while len(found) < count and cache.tokens + following.shape[1] <= network.shape.context:
        logits = network.logits(network.hidden(following, cache)[:, -1])[0].float()
        share = torch.softmax(logits / temperature, 0)
        drawn = int(torch.multinomial(share.cpu(), 1, generator=generator))
        if drawn == end:
            break
        found.append(drawn)
        following = torch.tensor([[drawn]], device=tokens.device)
    return found


def described(shape: Shape) -> dict[str, Any]:
    """The shape as transformers' config of a Llama has it."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.width,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_width,
        "max_position_embeddings": shape.context,
        "rope_theta": shape.theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.theta},
        "rms_norm_eps": shape.epsilon,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": SPREAD,
        "tie_word_embeddings": shape.tied,
        "torch_dtype": "float32",
    }
