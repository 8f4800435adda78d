"""verl's agent loop, quicker and telling what went wrong (`...rollout.agent.agent_loop_manager_class`)."""

from __future__ import annotations

import asyncio
import copy
from typing import Any, NamedTuple, TypedDict

import hydra
import ray
import torch
import transfer_queue as tq
from omegaconf import DictConfig, OmegaConf, open_dict
from verl.experimental.agent_loop.agent_loop import (
    AgentLoopBase,
    AgentLoopOutput,
    DictConfigWrap,
    ToolListWrap,
    _agent_loop_registry,
)
from verl.trainer.ppo.reward import get_custom_reward_fn
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ
from verl.utils.tensordict_utils import list_of_dict_to_tensordict
from vllm.sampling_params import RequestOutputKind

from trainer.processes import failures
from trainer.settings.owned import CHAT_TEMPLATES
from trainer.within.gathered import Gathered
from trainer.within.one_engine import direct, is_plain

PlainAgentLoopWorker = AgentLoopWorkerTQ.__ray_metadata__.modified_class  # pyright: ignore[reportAttributeAccessIssue]
"""verl's worker without its Ray wrapper, so that it can be subclassed; Ray does not declare the way to it."""


USED_UP = {
    *(
        "raw_prompt",
        "reward_model",
        "data_source",
        "ability",
        "extra_info",
        "tools_kwargs",
        "interaction_kwargs",
    ),
    "multi_modal_data",
}
"""Columns of a row that nothing reads once the rollout has its reward: they are not stored."""

PARTITION = "train"
"""verl's name of the part of its queue that holds a training's rollouts."""

Rollout = tuple[str, dict[str, Any], dict[str, Any]]
"""Key, fields and tag in that queue."""

WHOLE_ANSWERS = {"output_kind": RequestOutputKind.FINAL_ONLY, "detokenize": False}
"""Settings of vLLM's by which its server hands over an answer once, as token ids, which is all that is read.
By default it makes an object of the answer so far, and its text, at each token."""


class Asked(TypedDict):
    """A prompt that is answered to be judged."""

    row: dict[str, Any]
    """In verl's format, as plain values."""
    sampling: dict[str, Any]
    """vLLM's settings."""


class Answered(NamedTuple):
    """What became of it."""

    score: float
    """The row's reward, in [0, 1]."""
    tokens: int
    finished: bool
    """Whether it ended by itself."""


class LoudAgentLoopWorker(PlainAgentLoopWorker):
    """Records the first error of a rollout before verl swallows it, and spends less on each rollout.

    For every rollout verl builds the agent loop anew, asks one process for its reward, another for an engine,
    and sends a third its progress in several messages. Here the loop is built once, the reward computed in
    place, a single engine asked directly, and one message tells of all rollouts that end at nearly the same
    time. On small models this was most of the process's time.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.reward_function = get_custom_reward_fn(self.config)
        self.loops: dict[tuple[str, str | None], AgentLoopBase] = {}
        own = OmegaConf.select(self.config, CHAT_TEMPLATES, default={})
        self.chat_templates: dict[str, dict[str, Any]] = {name: dict(given) for name, given in own.items()}
        # an answer that may be interrupted to be continued by newer weights is asked for as verl does
        self.asked = WHOLE_ANSWERS if is_plain(self.llm_client) else {}
        self.llm_client = direct(self.llm_client, self.config)
        self.rollouts = Gathered(self._store)
        self.prompts = Gathered(self._tell)

    async def _run_prompt(
        self,
        prompt: dict[str, Any],
        sampling_params: dict[str, Any],
        trajectory: dict[str, Any],
        trace: bool = False,
    ) -> None:
        """All rollouts of a prompt, and then word of its end; nothing else waits for them."""
        assert not trajectory["validate"], "validations are asked by `answer`"
        count = self.rollout_config.n
        self.rollouts.expect(count)
        self.prompts.expect(1)
        rollouts = [
            self._run_agent_loop(
                {**sampling_params, **self.asked},
                trajectory=trajectory,
                trace=trace,
                session_id=number,
                **prompt,
            )
            for number in range(count)
        ]
        ended = await asyncio.gather(*rollouts, return_exceptions=True)
        failed = any(isinstance(result, BaseException) for result in ended)
        await self.prompts.put((prompt["uid"], {"status": "failure" if failed else "finished"}))

    async def answer(self, asked: list[Asked]) -> list[Answered]:
        """Judged answers to prompts that nothing is trained on, in order; nothing of them is stored."""
        return await asyncio.gather(*(self._answered(one) for one in asked))

    async def _answered(self, one: Asked) -> Answered:
        try:
            # a sampling setting that is not given would be that of the training's rollouts
            sampling = {"top_p": 1.0, "top_k": -1, "logprobs": False, **one["sampling"], **self.asked}
            loop = self._loop(self.rollout_config.agent.default_agent_loop, one["row"]["data_source"])
            output = await loop.run(sampling, raw_prompt=one["row"]["prompt"])
            result = await asyncio.to_thread(self._reward, output.response_ids, one["row"])
        except Exception as error:
            failures.record(self.config.protege.failures_file, "validation", error)
            raise
        return Answered(
            score=result["score"],
            tokens=len(output.response_ids),
            finished=self._finished(output.response_ids),
        )

    async def _tell(self, prompts: list[tuple[str, dict[str, Any]]]) -> None:
        keys, tags = map(list, zip(*prompts, strict=True))
        await tq.async_kv_batch_put(keys=keys, tags=tags, partition_id=PARTITION)

    async def _run_agent_loop(
        self,
        sampling_params: dict[str, Any],
        trajectory: dict[str, Any],
        *,
        agent_name: str,
        trace: bool = True,
        **kwargs: Any,
    ) -> Any:
        try:
            loop = self._loop(agent_name, plain(kwargs["data_source"]))
            output = await loop.run(sampling_params, **kwargs)
            return await self._agent_loop_postprocess(output, trajectory["validate"], **kwargs)
        except Exception as error:
            failures.record(self.config.protege.failures_file, "rollout", error)
            raise

    async def _agent_loop_postprocess(self, output: AgentLoopOutput, validate: bool, **row: Any) -> None:
        """Adds reward and scores to a rollout, and stores it as verl does."""
        assert not validate, "validations are asked by `answer`"
        await self._compute_score([output], kwargs=row)
        await self._compute_teacher_logprobs(
            output,
            prompt_ids=output.prompt_ids,
            response_ids=output.response_ids,
            validate=validate,
            sample_kwargs=row,
        )
        await self.rollouts.put(self._stored(output, row))

    def _stored(self, output: AgentLoopOutput, row: dict[str, Any]) -> Rollout:
        """Key, fields ([tokens] each) and tag under which verl's trainer expects a rollout."""
        fields = {**output.as_dict(), **row}
        fields = {name: value for name, value in fields.items() if name not in USED_UP}
        input_ids_T = torch.cat([fields["prompts"], fields["responses"]])
        inputs = self._compute_multi_modal_inputs(output, input_ids_T)
        mask_1T = torch.ones_like(input_ids_T).unsqueeze(0)
        fields |= {
            "loss_mask": fields["response_mask"],
            "input_ids": input_ids_T,
            "position_ids": self._compute_position_ids(input_ids_T.unsqueeze(0), mask_1T, inputs).squeeze(0),
            "multi_modal_inputs": inputs,
        }
        tag = {
            "status": "success",
            "prompt_len": len(fields["prompts"]),
            "response_len": len(fields["responses"]),
            "seq_len": len(input_ids_T),
            "global_steps": row["global_steps"],
            "min_global_steps": fields["extra_fields"].get("min_global_steps"),
            "max_global_steps": fields["extra_fields"].get("max_global_steps"),
        }
        return f"{row['uid']}_{row['session_id']}_0", fields, tag

    async def _store(self, rollouts: list[Rollout]) -> None:
        keys, fields, tags = map(list, zip(*rollouts, strict=True))
        rows = list_of_dict_to_tensordict(fields)
        await tq.async_kv_batch_put(keys=keys, fields=rows, tags=tags, partition_id=PARTITION)

    def _loop(self, name: str, domain: str) -> AgentLoopBase:
        """The agent loop of this name that asks in the domain's mode; single-turn loops keep no state between
        rollouts. A loop has one set of arguments for the chat template, so a domain with its own has a loop
        of its own."""
        own = self.chat_templates.get(domain)
        key = (name, None if own is None else domain)
        if key not in self.loops:
            assert name == "single_turn_agent", f"agent loop {name!r} may keep state and is not shared"
            self.loops[key] = hydra.utils.instantiate(
                config=_agent_loop_registry[name],
                trainer_config=DictConfigWrap(config=self.config),
                server_manager=self.llm_client,
                tokenizer=self.tokenizer,
                processor=self.processor,
                hf_model_type=self.hf_model_type,
                dataset_cls=self.dataset_cls,
                data_config=DictConfigWrap(self._data_config(own)),
                tools=ToolListWrap(self.tools),
            )
        return self.loops[key]

    def _data_config(self, chat_template: dict[str, Any] | None) -> DictConfig:
        """verl's settings of the data, with these arguments of the chat template in place of its own."""
        if chat_template is None:
            return self.config.data
        changed = copy.deepcopy(self.config.data)
        with open_dict(changed):
            changed.apply_chat_template_kwargs = chat_template
        return changed

    async def _compute_score(self, outputs: list[AgentLoopOutput], kwargs: dict[str, Any]) -> None:
        """The job's reward of a rollout, as verl's naive reward manager computes it, in a thread."""
        final = outputs[-1]
        result = await asyncio.to_thread(self._reward, final.response_ids, kwargs)
        final.reward_score = result["score"]
        final.extra_fields["reward_extra_info"] = result

    def _reward(self, response_ids: list[int], row: dict[str, Any]) -> dict[str, float]:
        assert self.reward_function is not None, "every job names one"
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


def plain(value: Any) -> Any:
    """A row's value as a plain Python object: verl hands over 0-d numpy objects."""
    return value.item() if hasattr(value, "item") else value


class LoudAgentLoopManager(AgentLoopManagerTQ):
    """verl's manager, with the worker class above or that of a subclass."""

    worker_class: type = LoudAgentLoopWorker

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.agent_loop_workers_class = ray.remote(self.worker_class)

    def answer(self, asked: list[Asked]) -> list[Answered]:
        """Judged answers to these prompts, in order, by all workers; waits for the last one."""
        count = len(self.agent_loop_workers)
        shares = [worker.answer.remote(asked[i::count]) for i, worker in enumerate(self.agent_loop_workers)]
        answers: list[Any] = [None] * len(asked)
        for i, own in enumerate(ray.get(shares)):
            answers[i::count] = own
        return answers
