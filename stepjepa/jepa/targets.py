"""Target views on their own: whose they are, and the steps of a batch as a batch without trunk and context.

Where the target is not that of the model in training (an average of its weights, or the model before training), the
single pass makes no copies, and the steps run through the other model by themselves: `isolated_steps`.
"""

from __future__ import annotations

import torch
from torch import Tensor

TARGET_MODELS = ("own", "ema", "frozen")


def problem_keys(batch: dict[str, Tensor]) -> Tensor:
    """A number for the problem of each example of a batch, `[E]` int64, from the tokens before its first step alone.

    The same problem has the same number in any batch, process and epoch; different ones differ but for a chance of
    about 2⁻⁶³ a pair.
    """
    examples, steps, positions = batch["example_ids"], batch["step_ids"], batch["position_ids"]
    count = int(examples.max()) + 1 if examples.numel() else 0
    in_step, trunk = (examples >= 0) & (steps >= 0), examples >= 0
    first = torch.full((count,), torch.iinfo(torch.long).max, device=examples.device)
    first = first.scatter_reduce(0, examples[in_step], positions[in_step], "amin")
    prompt = trunk.clone()
    prompt[trunk] = positions[trunk] < first[examples[trunk]]
    powers = torch.full((int(positions.max()) + 1 if positions.numel() else 1,), 6364136223846793005)  # odd: a unit
    weight = powers.cumprod(0).to(examples.device)[positions[prompt]]  # modulo 2⁶⁴, as int64 wraps
    keys = torch.zeros(count, dtype=torch.long, device=examples.device)
    return keys.index_add(0, examples[prompt], (batch["input_ids"][prompt] + 1) * weight)
