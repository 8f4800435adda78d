"""verl's agent loop, quicker and telling what went wrong (`...rollout.agent.agent_loop_manager_class`)."""

from __future__ import annotations

import asyncio

import hydra
import ray
from verl.experimental.agent_loop.agent_loop import DictConfigWrap, ToolListWrap, _agent_loop_registry
from verl.trainer.ppo.reward import get_custom_reward_fn
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ

from trainer import failures

PlainAgentLoopWorker = AgentLoopWorkerTQ.__ray_metadata__.modified_class
"""verl's worker without its Ray wrapper, so that it can be subclassed."""


class LoudAgentLoopWorker(PlainAgentLoopWorker):
    """Records the first error of a rollout before verl swallows it, and spends less on each rollout.

    Two things are done once or here that verl does for every rollout: building the agent loop from its
    configuration, and a trip to another process for a rule-based reward. Together they were half of this
    process's time on small models.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.reward_function = get_custom_reward_fn(self.config)
        self.loops: dict[str, object] = {}

    async def _run_agent_loop(self, sampling_params, trajectory, *, agent_name, trace=True, **kwargs):
        try:
            output = await self._loop(agent_name).run(sampling_params, **kwargs)
            return await self._agent_loop_postprocess(output, trajectory["validate"], **kwargs)
        except Exception as error:
            failures.record(self.config.protege.failures_file, "rollout", error)
            raise

    def _loop(self, name: str):
        """The agent loop of this name; single-turn loops keep no state between rollouts."""
        if name not in self.loops:
            assert name == "single_turn_agent", f"agent loop {name!r} may keep state and is not shared"
            self.loops[name] = hydra.utils.instantiate(
                config=_agent_loop_registry[name],
                trainer_config=DictConfigWrap(config=self.config),
                server_manager=self.llm_client,
                tokenizer=self.tokenizer,
                processor=self.processor,
                hf_model_type=self.hf_model_type,
                dataset_cls=self.dataset_cls,
                data_config=DictConfigWrap(self.config.data),
                tools=ToolListWrap(self.tools),
            )
        return self.loops[name]

    async def _compute_score(self, outputs, kwargs) -> None:
        """The job's reward of a rollout, as verl's naive reward manager computes it, in a thread."""
        final = outputs[-1]
        result = await asyncio.to_thread(self._reward, final.response_ids, kwargs)
        final.reward_score = result["score"]
        final.extra_fields["reward_extra_info"] = result

    def _reward(self, response_ids: list[int], row: dict) -> dict[str, float]:
        return self.reward_function(
            data_source=plain(row["data_source"]),
            solution_str=self.tokenizer.decode(response_ids, skip_special_tokens=True),
            ground_truth=plain(row["reward_model"])["ground_truth"],
            extra_info={**plain(row["extra_info"]), "finished": self._finished(response_ids)},
        )

    def _finished(self, response_ids: list[int]) -> bool:
        """Whether the response ended by itself and not at the length limit."""
        return (
            len(response_ids) < self.rollout_config.response_length
            or response_ids[-1] == self.tokenizer.eos_token_id
        )


def plain(value):
    """A row's value as a plain Python object: verl hands over 0-d numpy objects."""
    return value.item() if hasattr(value, "item") else value


class LoudAgentLoopManager(AgentLoopManagerTQ):
    """verl's manager, with the worker class above or that of a subclass."""

    worker_class: type = LoudAgentLoopWorker

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.agent_loop_workers_class = ray.remote(self.worker_class)
