"""Build a small Qwen3-style causal language model and its tokenizer, in Hugging Face format.

Everything downstream (vLLM, learners, PEFT) treats the result like any other checkpoint directory.
"""

from __future__ import annotations

import string
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, product, repeat
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

PAD, USER, ASSISTANT, END = "<|pad|>", "<|user|>", "<|assistant|>", "<|end|>"

# Four marker tokens a turn; append-only, so a transcript never forks (trajectories/builder.py, CLEAN).
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<|assistant|>{{ message['content'] }}<|end|>"
    "{% else %}<|user|>{{ message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


PIECES = Regex(r" ?\[SEP\]| ?[A-Z]?[a-z]+| (?=[0-9A-Z]{2})|[0-9A-Z]{2}| ?[0-9A-Z]| ?[^\sA-Za-z0-9]+|\s")
"""No merge crosses a piece: the separator of shop pages, words (with a capital or not), digits and capital letters two
by two, punctuation. So a code is split alike wherever it stands, and its pairs are all but unique on a page of them:
copied letter by letter it would take two or three letters at once to know the place."""
PAIRS = " ".join(map("".join, product(string.ascii_uppercase + string.digits, repeat=2)))
PAIRS_READ = 1_000
"""How often the tokenizer reads `PAIRS`: often enough that each becomes a token, rarely enough that words do."""


def train_tokenizer(texts: Iterable[str], vocab_size: int = 3072, max_length: int = 2048) -> PreTrainedTokenizerFast:
    """Byte-level BPE on the environments' own text: frequent names become one token, any other string still encodes.

    Args:
        texts: documents; their order decides ties between merges, so keep it fixed.
        vocab_size: number of tokens, the four markers and 256 bytes included.
        max_length: context length written to the tokenizer's configuration.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(PIECES, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, USER, ASSISTANT, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(chain(texts, repeat(PAIRS, PAIRS_READ)), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )


ROPE_BASE = 1e6
"""As in Qwen3. With 10,000 three quarters of a head's entries have turned by more than a radian after a thousand
tokens, and what they hold is not found again at that distance."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a model. Heads are 64 wide, half as many are key-value heads."""

    hidden_size: int = 256
    layers: int = 4
    intermediate_size: int = 768
    tied: bool = False


def build_model(tokenizer: PreTrainedTokenizerFast, shape: Shape = Shape(), *, seed: int = 0) -> Qwen3ForCausalLM:
    """A randomly initialised Qwen3, of about 5 million parameters with the default sizes."""
    heads = max(2, shape.hidden_size // 64)
    pad, end = (int(tokenizer.vocab[token]) for token in (PAD, END))
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        head_dim=shape.hidden_size // heads,
        max_position_embeddings=tokenizer.model_max_length,
        tie_word_embeddings=shape.tied,
        rope_parameters={"rope_theta": ROPE_BASE, "rope_type": "default"},
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=pad,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(config)


def save_checkpoint(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    """Write weights (in the model's own dtype), configuration and tokenizer to `directory`."""
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
