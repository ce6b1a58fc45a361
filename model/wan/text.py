"""UMT5 as Wan uses it: cleaned text, 512 slots, zero rows after the last token. transformers does the arithmetic.

Source: Wan2.1 ``wan/modules/t5.py`` and ``tokenizers.py``.
"""

from __future__ import annotations

import html
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from model.spec import ModelSpec

Placement = Literal["device", "offload", "cpu"]
PLACEMENTS = get_args(Placement)
REMEMBERED = 32  # cached prompt embeddings: 4 MiB each in bf16
TOKENIZER_FILES = ("tokenizer.json", "spiece.model")
XXL = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "vocab_size": 256384}
# over bytes, like ByT5's tokenizer, which needs no file
TINY = {"d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 384}


class TokenizerMissing(ValueError):
    """There is no tokenizer; the message names the missing file."""


def umt5_xxl(spec: ModelSpec) -> Umt5:
    """UMT5-XXL with fresh weights."""
    return Umt5(spec, XXL, None)


def umt5_tiny(spec: ModelSpec) -> Umt5:
    """A tiny encoder over bytes with random weights, for tests; ByT5's tokenizer needs no file."""
    from transformers import ByT5Tokenizer

    return Umt5(spec, {**TINY, "d_model": spec.text_dim}, ByT5Tokenizer)


def clean(prompt: str) -> str:
    """Wan's cleaning: repair broken Unicode, decode HTML entities (twice), collapse white space."""
    import ftfy

    return re.sub(r"\s+", " ", html.unescape(html.unescape(ftfy.fix_text(prompt)))).strip()


class Umt5(nn.Module):
    """UMT5's encoder with its tokenizer and a cache of recent embeddings.

    ``placement``: "device" stays on the model's device; "offload" moves there to encode and waits in main memory; "cpu"
    encodes in main memory. Cached prompts cost nothing.
    """

    def __init__(self, spec: ModelSpec, config: dict[str, int], tokenizer: Callable[[], Any] | None) -> None:
        super().__init__()
        from transformers import UMT5Config, UMT5EncoderModel

        self.slots = spec.text_len
        self.encoder = UMT5EncoderModel(
            UMT5Config(
                **config,
                feed_forward_proj="gated-gelu",
                relative_attention_num_buckets=32,
                relative_attention_max_distance=128,
                layer_norm_epsilon=1e-6,
                dropout_rate=0.0,
                use_cache=False,
            )
        )
        self.placement: Placement = "offload"
        self._make_tokenizer = tokenizer
        self._tokenizer: Any = None
        self._device = torch.device("cpu")
        self._remembered: OrderedDict[str, Tensor] = OrderedDict()

    def read_tokenizer(self, folder: Path) -> None:
        """Load the tokenizer in ``folder``. Raises TokenizerMissing."""
        if not any((folder / name).is_file() for name in TOKENIZER_FILES):
            raise TokenizerMissing(f"{folder} has no tokenizer of UMT5 ({' or '.join(TOKENIZER_FILES)})")
        from transformers import AutoTokenizer

        self._make_tokenizer = lambda: AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.tokenizer  # noqa: B018 - a damaged file is found now, not with the first prompt

    @property
    def needs_tokenizer(self) -> bool:
        """Whether tokenizer files must be loaded before the first prompt."""
        return self._make_tokenizer is None

    @property
    def tokenizer(self) -> Any:
        """The tokenizer. Raises TokenizerMissing if it was not loaded."""
        if self._make_tokenizer is None:
            raise TokenizerMissing(
                "UMT5's tokenizer is missing: put its files, from google/umt5-xxl, beside the text encoder"
            )
        if self._tokenizer is None:
            self._tokenizer = self._make_tokenizer()
        return self._tokenizer

    def settle(self, device: torch.device, dtype: torch.dtype) -> Umt5:
        """Prepare for a transformer on ``device``; ``placement`` decides where the weights stay."""
        self._device = device
        self.to(dtype=dtype)
        self.to(device if self.placement == "device" else torch.device("cpu"))
        return self

    def encode(self, prompt: str) -> Tensor:
        """A prompt to its text states (slots, text_dim) on the model's device; zero after the last token."""
        words = clean(prompt)
        if words in self._remembered:
            self._remembered.move_to_end(words)
        else:
            self._remembered[words] = self._encode(words)
            while len(self._remembered) > REMEMBERED:
                self._remembered.popitem(last=False)
        return self._remembered[words].to(self._device)

    @torch.no_grad()
    def _encode(self, words: str) -> Tensor:
        """Text states in main memory."""
        tokens = self.tokenizer(
            [words], max_length=self.slots, padding="max_length", truncation=True, return_tensors="pt"
        )
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        where = torch.device("cpu") if self.placement == "cpu" else self._device
        try:
            self.encoder.to(where)
            states: Tensor = self.encoder(ids.to(where), attention_mask=mask.to(where)).last_hidden_state[0]
            known: Tensor = states * mask[0].to(where).unsqueeze(-1)
            return known.cpu()
        finally:
            if self.placement == "offload":
                self.encoder.to("cpu")
