"""verl's synchronous replay buffer, made strict and quick (`trainer.v1.sampler.custom_sampler`)."""

from __future__ import annotations

import time
from typing import Any

from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

POLL_SECONDS = 0.02
"""verl asks for finished rollouts every two seconds; a small model's whole step is shorter."""

POLL_SHARE = 0.03
"""Between two questions this share of the time that has been waited: each one takes work of two processes, in
proportion to the rollouts, and a long step does not get longer by waiting a little too long."""


class StrictReplayBuffer(ReplayBuffer):
    """Ends the run at the first failed rollout.

    verl's own buffer counts a failed rollout as finished and pads the batch for it, so that a dead
    scorer or engine would train silently on what is left.
    """

    def sample(self, *args: Any, **kwargs: Any) -> Any:
        """verl's, asking less often the longer it takes."""
        self.asked_since = time.monotonic()
        return super().sample(*args, **kwargs)

    def _wait_for_next_poll(self, *args: Any, **kwargs: Any) -> float:
        self.poll_interval = poll_seconds(time.monotonic() - self.asked_since)
        return super()._wait_for_next_poll(*args, **kwargs)

    def _terminal_eviction_reasons(self, global_steps: int, partition_id: str) -> Any:
        failed = self.failure_keys[partition_id]
        if failed:
            raise RuntimeError(f"{len(failed)} rollouts failed in step {global_steps}")
        return super()._terminal_eviction_reasons(global_steps, partition_id)


def poll_seconds(waited: float) -> float:
    """Seconds until the next question after that long; verl's own two seconds at most."""
    return min(2.0, max(POLL_SECONDS, POLL_SHARE * waited))
