"""Where there is one engine, its load balancer is asked once."""

import asyncio

import pytest
from omegaconf import OmegaConf

verl = pytest.importorskip("verl.workers.rollout.llm_server")

from verl.workers.rollout.replica import TokenOutput  # noqa: E402

from trainer.within.one_engine import OneEngineClient, direct, is_plain  # noqa: E402


class Actor:
    """Notes what it is asked, as a Ray actor's handle, and gives the same answers always."""

    def __init__(self, **answers):
        self.asked, self.answers = [], answers

    def __getattr__(self, name):
        return Method(self, name)


class Method:
    def __init__(self, actor, name):
        self.actor, self.name = actor, name

    def remote(self, **given):
        self.actor.asked.append(self.name)

        async def answer():
            return self.actor.answers.get(self.name, [])

        return answer()


def config(gpus: int, **rollout):
    sizes = {"tensor_model_parallel_size": 1, "data_parallel_size": 1, "pipeline_model_parallel_size": 1}
    rollout = {"name": "vllm", "full_determinism": False} | sizes | rollout
    return OmegaConf.create(
        {"actor_rollout_ref": {"rollout": rollout}, "trainer": {"n_gpus_per_node": gpus, "nnodes": 1}}
    )


def test_the_only_engine_is_asked_for_once():
    engine = Actor(generate=TokenOutput(token_ids=[7], extra_fields={"global_steps": 3}))
    balancer = Actor(acquire_server=("server-0", engine))
    client = direct(verl.LLMServerClient(config(1), balancer), config(1))
    assert isinstance(client, OneEngineClient)

    async def run():
        return [await client.generate(str(n), prompt_ids=[1], sampling_params={}) for n in range(3)]

    assert [output.token_ids for output in asyncio.run(run())] == [[7]] * 3
    assert engine.asked == ["generate"] * 3
    assert balancer.asked.count("acquire_server") == 1 and "release_server" not in balancer.asked


@pytest.mark.parametrize(
    "settings, one",
    [
        (config(2), False),
        (config(2, tensor_model_parallel_size=2), True),
        (config(4, data_parallel_size=2), False),
    ],
)
def test_several_engines_keep_their_balancer(settings, one):
    client = verl.LLMServerClient(settings, Actor())
    assert (direct(client, settings) is not client) == one


def test_another_kind_of_client_is_kept_as_it_is():
    client = verl.FullyAsyncLLMServerClient(config(1), Actor())
    assert direct(client, config(1)) is client and not is_plain(client)
