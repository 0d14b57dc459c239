"""A text as a language model reads it: surprisal, entropy and hidden state of each token, and where a cut may stand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stepjepa.data.encoding import chat_encoder
from stepjepa.data.mathematics import mathematics
from stepjepa.jepa.architectures import base_model, evaluating, max_positions
from stepjepa.records import UserError

LONGEST = 2048  # tokens read at once; a longer text is read in parts
WHITESPACE = re.compile(r"\s")


@dataclass(frozen=True)
class Reading:
    """A text as a language model reads it, T tokens."""

    starts: np.ndarray
    """`[T]` integers: the offset of each token's first character that is no space, if it has one."""
    allowed: np.ndarray
    """`[T]` booleans: a cut may stand before the token. It begins a word, outside mathematics, and is not the first."""
    surprisal: np.ndarray
    """`[T]`: −log p(token | those before it), nats; of the first after the prompt."""
    entropy: np.ndarray
    """`[T]`: of that distribution, nats."""
    separator: np.ndarray
    """`[T]`: log of its probability of tokens that begin with a line end."""
    states: np.ndarray
    """`[T, D]` float32: the hidden states of one layer."""

    def boundaries(self, offsets: Sequence[int]) -> np.ndarray:
        """Offsets at which steps begin → `[T]` booleans: the first token that begins there or later begins a step."""
        marked = np.zeros(len(self.starts), dtype=bool)
        found = np.searchsorted(self.starts, [offset for offset in offsets if offset > 0])
        marked[found[found < len(marked)]] = True
        return marked


class Reader:
    """A language model that reads solutions, each as an answer to no question: a splitter knows nothing but the text.

    Args:
        model, tokenizer: of `load_model`.
        layer: whose hidden states are kept, 0 (embedding output) … number of layers, or −1, the last.

    Raises:
        UserError: the model has no such layer.
    """

    def __init__(self, model: Any, tokenizer: Any, layer: int = -1) -> None:
        self.model, self.encoder, self.layer = base_model(model), chat_encoder(tokenizer), layer
        depth = self.model.config.get_text_config().num_hidden_layers
        if not -1 <= layer <= depth:
            raise UserError(f"layer {layer}: the model has layers 0 (embedding output) to {depth}")
        self.longest = min(max_positions(self.model) or LONGEST, LONGEST)
        pieces = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
        line_ends = [i for i, piece in enumerate(pieces) if piece.lstrip(" ").startswith("\n")]
        self.line_ends = torch.tensor(line_ends, dtype=torch.long, device=self.model.device)

    def __call__(self, text: str) -> Reading:
        """Read a text; line ends are read as the spaces that stand in their place where there are none."""
        flat = WHITESPACE.sub(" ", text)
        shift = len(flat) - len(flat.lstrip())
        turns = [{"role": "user", "content": ""}, {"role": "assistant", "content": flat.strip()}]
        (encoded,) = self.encoder.encode([turns])
        begin, end = encoded.rendering.start, encoded.rendering.end
        own = [i for i, (start, stop) in enumerate(encoded.offsets) if begin < stop and start < end]
        read = self._forward(encoded.ids[: own[-1] + 1], own[0])
        starts, words = [], []
        for i in own:
            start, stop = (min(max(offset, begin), end) - begin + shift for offset in encoded.offsets[i])
            if flat[start:stop].strip():
                start += len(flat[start:stop]) - len(flat[start:stop].lstrip())
            words.append(start > 0 and flat[start - 1] == " " and flat[start] != " ")
            starts.append(start)
            if starts[-1] > 0 and len(starts) > 1 and flat[starts[-2]] == " ":
                # A token of its own for the space before a word is the word's beginning: what it surprised by counts.
                n = len(starts) - 1
                read["surprisal"][n] += read["surprisal"][n - 1]
                read["entropy"][n], read["separator"][n] = read["entropy"][n - 1], read["separator"][n - 1]
        _, is_protected = mathematics(text)
        first = np.diff(starts, prepend=-1) > 0  # of the tokens of one character only the first
        allowed = np.array(words) & first & ~np.array([is_protected(start) for start in starts])
        allowed[0] = False
        return Reading(np.array(starts), allowed, **read)

    @torch.no_grad()
    def _forward(self, ids: Sequence[int], first: int) -> dict[str, np.ndarray]:
        """What is read of the tokens from `first` on, in parts that the model has positions for."""
        parts: list[dict[str, Tensor]] = []
        with evaluating(self.model):
            for start in range(0, len(ids), self.longest):
                row = torch.tensor([ids[start : start + self.longest]], device=self.model.device)
                out = self.model(input_ids=row, output_hidden_states=True, use_cache=False)
                foreseen = out.logits[0, :-1].float().log_softmax(dim=-1)
                part = {
                    "surprisal": -foreseen.gather(1, row[0, 1:, None])[:, 0],
                    "entropy": -(foreseen.exp() * foreseen.clamp_min(-1e4)).sum(dim=-1),
                    "separator": foreseen[:, self.line_ends].logsumexp(dim=-1).clamp_min(-1e4),
                }
                # The first token of a part follows nothing that was read: it scores 0, and a later part begins so too.
                part = {name: torch.nn.functional.pad(values, (1, 0)) for name, values in part.items()}
                parts.append(part | {"states": out.hidden_states[self.layer][0].float()})
        return {name: torch.cat([part[name] for part in parts])[first:].cpu().numpy() for name in parts[0]}
