"""verl's synchronous replay buffer, made strict and quick (`trainer.v1.sampler.custom_sampler`)."""

from __future__ import annotations

from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

POLL_SECONDS = 0.02
"""verl asks for finished rollouts every two seconds; a small model's whole step is shorter."""


class StrictReplayBuffer(ReplayBuffer):
    """Ends the run at the first failed rollout.

    verl's own buffer counts a failed rollout as finished and pads the batch for it, so that a dead
    scorer or engine would train silently on what is left.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **{**kwargs, "poll_interval": POLL_SECONDS})

    def _terminal_eviction_reasons(self, global_steps: int, partition_id: str):
        failed = self.failure_keys[partition_id]
        if failed:
            raise RuntimeError(f"{len(failed)} rollouts failed in step {global_steps}")
        return super()._terminal_eviction_reasons(global_steps, partition_id)
