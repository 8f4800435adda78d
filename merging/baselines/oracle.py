"""The routed oracle: answers of each domain's own teacher on that domain's benchmarks, as one model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.files import write_text
from common.reading import read_text
from eval.records import Sample, write_samples
from eval.report.data import ORACLE_BASELINE, ModelInfo

if TYPE_CHECKING:
    from merging.state.run_folder import RunFolder

Samples = dict[tuple[str, str], list[Sample]]
"""By model and benchmark."""


def with_oracle(folder: RunFolder, samples: Samples) -> Samples:
    """The samples with those of the oracle, if the config declares it; its files lie beside theirs.

    Its answers are the teachers' by reference: nothing is sampled or judged again.
    """
    if not folder.config.compares_oracle():
        return samples
    names, added = folder.teacher_names(), {}
    for domain, declared in folder.config.domains.items():
        for benchmark in declared.benchmarks:
            answers = samples[names[domain], benchmark.name]
            added[ORACLE_BASELINE, benchmark.name] = answers
            source, target = (folder.samples / model for model in (names[domain], ORACLE_BASELINE))
            write_samples(target / f"{benchmark.name}.jsonl", answers)
            key = f"{benchmark.name}.key.json"
            write_text(target / key, read_text(source / key))
    return {**samples, **added}


def oracle_model(folder: RunFolder) -> list[ModelInfo]:
    """The oracle as a model of the report; nothing where the config does not declare it."""
    return [ModelInfo(ORACLE_BASELINE, "baseline")] * folder.config.compares_oracle()


NOTE = (
    f"`{ORACLE_BASELINE}` holds, on each domain's benchmarks, the answers of that domain's own teacher: what "
    "perfect routing among the experts would reach. The student against it is the student against that "
    "teacher, which is counted once in the correction for many comparisons"
)
"""What the report says of it."""
