"""Is a model that takes its turn in a shared module the one that was loaded?

Each model reads a few fixed tokens when it is loaded, in a module of its own, and again after every swap.
A swap that leaves weights of another model behind, and weights that something wrote to meanwhile, show in
these log-probabilities. Not a checksum: a change that moves none of them by the tolerance is not seen, such
as one in the embedding of a token that the canary does not hold.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from teachers.models.modules import output_head

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

TOKENS = 16
"""Length of the canary: a swap is followed by one pass over so many tokens."""

TOLERANCE, LOW_PRECISION_TOLERANCE = 1e-3, 5e-2
"""Nats by which a token may differ, in float32 and in formats of half its width. The same weights in the same
code on the same device differ by the order of sums at most: some 1e-5 nats in float32. bfloat16 keeps 8 bits,
so one rounding moves a logit between 4 and 8 by 0.03 nats."""


class Canary:
    """What each model made of the canary when it was loaded.

    `read` gives the canary's log-probabilities under a module, on the host; the module also has a `dtype`.
    """

    def __init__(self, read: Callable[[Any], torch.Tensor] | None = None) -> None:
        self.read = read or canary_logp
        self.expected: dict[str, torch.Tensor] = {}

    def remember(self, model: str, path: str, module: Any) -> None:
        """Reads the canary with the model just loaded; raises ValueError where a number is not finite."""
        logp_T = self.read(module)
        if not logp_T.isfinite().all():
            raise ValueError(
                f"model {model!r} at {path} gives log-probabilities that are not finite on "
                f"{len(logp_T) + 1} fixed tokens ({_numbers(logp_T)}): its weights hold NaN or infinity, or "
                f"overflow in {module.dtype}"
            )
        self.expected[model] = logp_T

    def check(self, model: str, module: Any) -> None:
        """Raises ValueError where `module` does not read the canary as the model did when it was loaded."""
        import torch

        expected_T, found_T = self.expected[model], self.read(module)
        allowed = TOLERANCE if module.dtype == torch.float32 else LOW_PRECISION_TOLERANCE
        difference = (found_T - expected_T).abs().max().item()
        if not difference <= allowed:  # NaN is no difference within the tolerance
            raise ValueError(
                f"model {model!r}: the weights in the scorer are not those that were loaded. On "
                f"{len(found_T) + 1} fixed tokens log-probabilities {_numbers(expected_T)} were expected, "
                f"{_numbers(found_T)} came: a difference of {difference:.3g} nats, above {allowed:g} "
                "(scorer.canary)"
            )


def canary_tokens(vocabulary: int, context: int) -> list[int]:
    """Token ids spread evenly over the vocabulary: `TOKENS`, or the context if that is shorter."""
    count = min(TOKENS, context)
    return [(2 * i + 1) * vocabulary // (2 * count) for i in range(count)]


def tokens_for(config: PreTrainedConfig) -> list[int]:
    """The canary of a model with this configuration."""
    context = getattr(config, "max_position_embeddings", None) or TOKENS
    return canary_tokens(config.vocab_size, context)


def canary_logp(module: PreTrainedModel) -> torch.Tensor:
    """log p(token t+1 | tokens <= t) of the canary's tokens, float32, on the host."""
    import torch

    ids_1T = torch.tensor([tokens_for(module.config)], device=module.device)
    with torch.inference_mode():
        hidden_TD = module.base_model(input_ids=ids_1T, use_cache=False)[0][0, :-1]
        logp_TV = output_head(module)(hidden_TD).float().log_softmax(-1)
        return logp_TV.gather(1, ids_1T[0, 1:, None]).squeeze(1).cpu()


def _numbers(logp_T: torch.Tensor) -> str:
    """The first few, as a person reads them."""
    shown = ", ".join(f"{value:.4g}" for value in logp_T[:4].tolist())
    return f"[{shown}{', ...' if len(logp_T) > 4 else ''}]"
