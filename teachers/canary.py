"""Is a model that takes its turn in a shared module the one that was loaded?

Each model reads a few fixed tokens when it is loaded, in a module of its own, and again after every swap.
A swap that leaves weights of another model behind, and weights that something wrote to meanwhile, show in
these log-probabilities. Not a checksum: a change that moves none of them by the tolerance is not seen, such
as one in the embedding of a token that the canary does not hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

TOKENS = 16
"""Length of the canary: a swap is followed by one pass over so many tokens."""

TOLERANCE, LOW_PRECISION_TOLERANCE = 1e-3, 5e-2
"""Nats by which a token may differ, in float32 and in formats of half its width. The same weights in the same
code on the same device differ by the order of sums at most: some 1e-5 nats in float32. bfloat16 keeps 8 bits,
so one rounding moves a logit between 4 and 8 by 0.03 nats."""


class Canary:
    """What each model made of the canary when it was loaded."""

    def __init__(self) -> None:
        self.expected: dict[str, torch.Tensor] = {}

    def remember(self, model: str, path: str, module: torch.nn.Module) -> None:
        """Reads the canary with the model just loaded; raises ValueError where a number is not finite."""
        logp = canary_logp(module)
        if not logp.isfinite().all():
            raise ValueError(
                f"model {model!r} at {path} gives log-probabilities that are not finite on "
                f"{len(logp) + 1} fixed tokens ({_numbers(logp)}): its weights hold NaN or infinity, or "
                f"overflow in {module.dtype}"
            )
        self.expected[model] = logp

    def check(self, model: str, module: torch.nn.Module) -> None:
        """Raises ValueError where `module` does not read the canary as the model did when it was loaded."""
        import torch

        expected, found = self.expected[model], canary_logp(module)
        allowed = TOLERANCE if module.dtype == torch.float32 else LOW_PRECISION_TOLERANCE
        difference = (found - expected).abs().max().item()
        if not difference <= allowed:  # NaN is no difference within the tolerance
            raise ValueError(
                f"model {model!r}: the weights in the scorer are not those that were loaded. On "
                f"{len(found) + 1} fixed tokens log-probabilities {_numbers(expected)} were expected, "
                f"{_numbers(found)} came: a difference of {difference:.3g} nats, above {allowed:g} "
                "(scorer.canary)"
            )


def canary_tokens(vocabulary: int, context: int) -> list[int]:
    """Token ids spread evenly over the vocabulary: `TOKENS`, or the context if that is shorter."""
    count = min(TOKENS, context)
    return [(2 * i + 1) * vocabulary // (2 * count) for i in range(count)]


def canary_logp(module: torch.nn.Module) -> torch.Tensor:
    """log p(token t+1 | tokens <= t) of the canary's tokens, float32 [tokens - 1], on the host."""
    import torch

    context = getattr(module.config, "max_position_embeddings", None) or TOKENS
    ids = torch.tensor([canary_tokens(module.config.vocab_size, context)], device=module.device)
    with torch.inference_mode():
        hidden = module.base_model(input_ids=ids, use_cache=False)[0][0, :-1]
        logp = module.get_output_embeddings()(hidden).float().log_softmax(-1)
        return logp.gather(1, ids[0, 1:, None]).squeeze(1).cpu()


def _numbers(logp: torch.Tensor) -> str:
    """The first few, as a person reads them."""
    shown = ", ".join(f"{value:.4g}" for value in logp[:4].tolist())
    return f"[{shown}{', ...' if len(logp) > 4 else ''}]"
