"""What an evaluation returns, writes and reports, with neither a model nor a real benchmark."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from configs.prompt_mode import PromptMode
from configs.schema import Hardware
from eval import jobs
from eval.generation.model_folders import evaluated_model, model_digest
from eval.records import Completion, Problem, Verdict, read_samples
from eval.suite import ModelUnderTest
from tests.helpers import suite_fakes
from tests.helpers.messages import refuses
from tests.helpers.suite_fakes import Bench, FakeGenerator


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def test_samples_hold_greedy_then_sampled_answers_of_each_problem(bench: Bench) -> None:
    [(id, samples)] = bench.evaluate().items()
    assert id == ("m", "bench")
    assert [(s.problem_id, s.mode, s.index) for s in samples] == [
        (f"p{i}", mode, index)
        for i in range(3)
        for mode, index in (("greedy", 0), ("sampled", 0), ("sampled", 1))
    ]
    last = samples[-1]
    assert last.completion == "sampled p2 #1 T=1.0 seed=42"
    assert (last.tokens, last.finished) == (15, False)
    assert (last.verdict, last.detail, last.benchmark) == (Verdict.PASS, "expected 2", "bench")
    assert last.prompt == ({"role": "user", "content": "question 2"},)
    assert read_samples(bench.samples / "m" / "bench.jsonl") == samples


def test_without_greedy_only_sampled_answers(bench: Bench) -> None:
    bench.set(greedy=False)
    [samples] = bench.evaluate().values()
    assert [(s.problem_id, s.mode, s.index) for s in samples] == [
        (f"p{i}", "sampled", index) for i in range(3) for index in (0, 1)
    ]


def test_a_benchmark_may_ask_for_its_own_number_of_answers(bench: Bench) -> None:
    bench.samples_of = {"more": 5}
    results = bench.evaluate(("bench", "more"))
    sampled = {
        name: [s.index for s in results["m", name] if s.mode == "sampled"] for name in ("bench", "more")
    }
    assert sampled == {"bench": [0, 1] * 3, "more": [0, 1, 2, 3, 4] * 3}
    assert [event[-1] for event in bench.events if event[0] == "progress"][-1] == 18
    bench.samples_of = {}  # other answers are asked for: those that are stored do not count
    assert len(bench.evaluate(("more",))["m", "more"]) == 9


def test_results_follow_the_order_of_the_arguments(bench: Bench) -> None:
    other = [ModelUnderTest("a", bench.make_model("other"), "teacher", "maths")]
    results = bench.evaluate(("z", "b"), other)
    assert list(results) == [("m", "z"), ("m", "b"), ("a", "z"), ("a", "b")]
    # Partly stored results keep the order.
    (bench.samples / "m" / "z.key.json").unlink()
    assert list(bench.evaluate(("b", "z"), other)) == [("m", "b"), ("m", "z"), ("a", "b"), ("a", "z")]


class ServedElsewhere:
    """A model that answers without a worker."""

    def __init__(self, context: int | None = None, digest: str = "weights B") -> None:
        self.context, self.digest = context, digest
        self.asked: list[dict] = []

    def generate(self, problems, *, on_progress, **how) -> dict[str, list[Completion]]:
        self.asked.append(how)
        on_progress(how["n"] * len(problems))
        return {problem.id: [Completion("elsewhere", 3, True)] * how["n"] for problem in problems}


def served_model(served: ServedElsewhere) -> list[ModelUnderTest]:
    return [ModelUnderTest("far", None, "teacher", "maths", served)]


def test_a_served_model_answers_elsewhere_by_the_same_settings(bench: Bench) -> None:
    served = ServedElsewhere()
    samples = bench.evaluate(extra=served_model(served))["far", "bench"]
    assert [(s.mode, s.completion, s.tokens, s.verdict) for s in samples] == 3 * [
        ("greedy", "elsewhere", 3, Verdict.PASS),
        *[("sampled", "elsewhere", 3, Verdict.PASS)] * 2,
    ]
    greedy, sampled = served.asked
    assert (greedy["mode"], greedy["n"], sampled["mode"], sampled["n"]) == ("greedy", 1, "sampled", 2)
    assert all((how["seed"], how["max_tokens"]) == (42, 16) for how in served.asked)
    assert bench.generated == 2  # of the model in a folder


def test_problems_are_asked_in_the_mode_of_their_domain(bench: Bench) -> None:
    bench.modes = {"maths": PromptMode({"think": True}, "Be short.")}
    served = ServedElsewhere()
    found = bench.evaluate(extra=served_model(served))
    asked = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "question 0"}]
    assert bench.asked[0] == ({"think": True}, asked) and len(bench.asked) == 6
    assert [how["chat_template"] for how in served.asked] == [{"think": True}] * 2
    assert all(samples[0].prompt == tuple(asked) for samples in found.values())


def test_a_problem_with_a_system_message_of_its_own_is_refused(bench: Bench) -> None:
    own = ({"role": "system", "content": "Mine."}, {"role": "user", "content": "question"})
    bench.problems = [*bench.problems, Problem("p3", own, "3")]
    assert len(bench.evaluate()["m", "bench"]) == 12
    bench.modes = {"maths": PromptMode({}, "Be short.")}
    with refuses("benchmark bench", "'p3'", "system_prompt"):
        bench.evaluate()


def test_a_served_models_answers_are_kept_by_its_digest(bench: Bench) -> None:
    first = ServedElsewhere()
    bench.evaluate(extra=served_model(first))
    again, other = ServedElsewhere(), ServedElsewhere(digest="weights C")
    bench.evaluate(extra=served_model(again))
    assert again.asked == []
    bench.evaluate(extra=served_model(other))
    assert len(other.asked) == 2


def test_a_served_models_context_limits_every_model(bench: Bench) -> None:
    served = ServedElsewhere(context=500)
    bench.evaluate(extra=served_model(served))
    assert all(how["max_model_len"] == 500 for how in served.asked)
    assert bench.generators[0]["max_model_len"] == 500


def test_the_order_of_the_benchmarks_changes_no_sample(bench: Bench, tmp_path: Path) -> None:
    forwards = bench.evaluate(("z", "b"))
    bench.samples = tmp_path / "again"
    assert bench.evaluate(("b", "z")) == forwards


def test_progress_reports_every_pair_to_its_end(bench: Bench) -> None:
    bench.evaluate(("z", "b"))
    progress = [event[1:] for event in bench.events if event[0] == "progress"]
    assert progress == [("m", name, done, 9) for name in ("z", "b") for done in (0, 3, 9)]
    bench.events.clear()
    bench.evaluate(("z", "b"))
    assert [event for event in bench.events if event[0] == "progress"] == [
        ("progress", "m", "z", 9, 9),
        ("progress", "m", "b", 9, 9),
    ]


def test_grading_overlaps_the_next_generation(bench: Bench) -> None:
    """The grading of the first benchmark waits for the answers to the second: it would never end if
    they came one after the other."""
    answered = threading.Event()

    def wait(name: str) -> None:
        if name == "z":
            assert answered.wait(timeout=10), "generation of the next benchmark did not start"

    bench.before_grading = wait
    bench.events = Watched(lambda event: answered.set() if bench.generated == 4 else None)
    results = bench.evaluate(("z", "b"))
    assert len(results) == 2 and answered.is_set()
    # Workers are ended before the last grading is waited for.
    assert ("closed",) in bench.events


class Watched(list):
    def __init__(self, on_append) -> None:
        super().__init__()
        self.on_append = on_append

    def append(self, event) -> None:
        super().append(event)
        self.on_append(event)


def test_a_failed_grading_stops_the_evaluation(bench: Bench) -> None:
    bench.verdict = RuntimeError("no sandbox")
    with pytest.raises(RuntimeError, match="no sandbox"):
        bench.evaluate(("z", "b"))
    assert ("closed",) in bench.events


@pytest.mark.parametrize(
    ("hardware", "devices", "tensor_parallel"),
    [
        (Hardware(device="cpu", gpus=2, rollout_tensor_parallel=2), 1, 1),
        (Hardware(device="cuda", gpus=8, rollout_tensor_parallel=2), 8, 2),
        (Hardware(device="cuda", gpus=8, nodes=2, ray_address="10.0.0.1:6379"), 16, 1),
        (Hardware(device="cpu", gpus=2, nodes=2, ray_address="10.0.0.1:6379"), 1, 1),
    ],
)
def test_hardware_reaches_the_generator(bench: Bench, hardware, devices, tensor_parallel) -> None:
    bench.hardware = hardware
    bench.evaluate()
    [arguments] = bench.generators
    assert arguments["device"] == hardware.device
    assert (arguments["devices"], arguments["tensor_parallel"]) == (devices, tensor_parallel)
    assert arguments["ray_address"] == hardware.ray_address


def test_the_engine_is_as_long_as_the_longest_prompt_and_answer(bench: Bench) -> None:
    bench.evaluate()
    # "question 0" is 10 bytes; the model's context of 8192 is not reached.
    assert bench.generators[0]["max_model_len"] == 10 + jobs.TEMPLATE_TOKENS + 16


def test_digest_of_a_model_is_that_of_its_content(bench: Bench, tmp_path: Path) -> None:
    twin = bench.make_model("twin")
    assert model_digest(twin) == model_digest(bench.model)
    (twin / "model-2.safetensors").write_bytes(b"")
    assert model_digest(twin) != model_digest(bench.model)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with refuses("config.json", "*.safetensors"):
        evaluated_model(str(tmp_path))


def test_what_is_neither_folder_nor_hub_name_is_refused() -> None:
    with refuses("no/such/folder/at/all", "folder", "hub"):
        evaluated_model("no/such/folder/at/all")
    with refuses("/no/such/folder/at/all", "no such model folder"):
        evaluated_model("/no/such/folder/at/all")


@pytest.mark.parametrize("error, waits", [(KeyboardInterrupt, False), (RuntimeError, True)])
def test_only_an_interrupt_does_not_wait_for_the_grading(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], waits: bool
) -> None:
    began, may_end, graded = threading.Event(), threading.Event(), []

    def grade(name: str) -> None:
        began.set()
        if not waits:
            may_end.wait(20)
        graded.append(name)

    class Stopped(FakeGenerator):
        def generate(self, *arguments, **how):
            if began.is_set():
                raise error
            return super().generate(*arguments, **how)

    bench.before_grading = grade
    monkeypatch.setattr(suite_fakes, "FakeGenerator", Stopped)
    with pytest.raises(error):
        bench.evaluate(tuple("abcdefgh"))
    assert bool(graded) == waits
    may_end.set()
