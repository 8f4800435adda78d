"""How far the start and the reference are apart before the training, where they are different models.

The guard on the start compares step 1 with it: if the scorer read other tokens than the trainer, |S - B|
would be far from what the two models have on answers of the start.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.files import write_json
from common.reading import read_json
from merging.exopd.names import measures_start, references
from merging.state.run_folder import RunFolder
from teachers.scoring.scored import Scored

if TYPE_CHECKING:
    import torch

    from configs.schema import MergeConfig
    from merging.state.cluster import Cluster
    from teachers.scoring.scorer import SharedScorer

FILE = "start.json"
PROMPTS, LONGEST = 32, 256
"""Answers that are compared, of each domain, and most tokens of one."""

START = "start"
"""Name of the start among the models that are read; no reference is called so."""

Encoded = Mapping[str, Sequence[Sequence[int]]]
"""Prompts as token ids, by domain."""


def measure_start(folder: RunFolder, cluster: Cluster) -> None:
    """Keeps the mean |S - B| (nats a token) of each domain that has one in `<run>/start.json`, once."""
    from merging.training.prompted import encoded_messages, student_tokenizer

    config = folder.config
    measured = [domain for domain in config.domains if measures_start(config, domain)]
    if not measured or (folder.path / FILE).exists():
        return
    with folder.measured.stage("start"):
        tokenizer, end_ids = student_tokenizer(folder.start)
        # the rows have their system message
        modes = {name: replace(mode, system_prompt=None) for name, mode in config.prompt_modes().items()}
        encoded = {
            domain: encoded_messages(tokenizer, own, modes[domain])
            for domain, own in _first_prompts(folder.prompts_file, measured).items()
        }
        found = cluster.on_device(distances, config, str(folder.start), encoded, end_ids)
        write_json(folder.path / FILE, dict(zip(measured, found, strict=True)))


def _first_prompts(prompts_file: Path, domains: Sequence[str]) -> dict[str, list[Any]]:
    """Messages of the first prompts of these domains in the training."""
    import pyarrow.parquet

    found: dict[str, list[Any]] = {domain: [] for domain in domains}
    for row in pyarrow.parquet.read_table(prompts_file, columns=["teacher", "prompt"]).to_pylist():
        own = found.get(row["teacher"])
        if own is not None and len(own) < PROMPTS:
            own.append(row["prompt"])
    return found


def expected_distances(run_dir: Path) -> dict[str, float]:
    """What `measure_start` kept."""
    path = run_dir / FILE
    what = "how far the start is from the reference"
    return read_json(path, dict[str, float], what) if path.exists() else {}


def distances(config: MergeConfig, start: str, prompts: Encoded, end_ids: Sequence[int]) -> Iterator[float]:
    """Mean |S - B| over the tokens of the start's own answers to each domain's prompts."""
    import torch

    from merging.exopd.job import scorer_dtype
    from teachers.scoring.mixture import MixtureDecoder
    from teachers.scoring.scorer import SharedScorer

    hardware, dtype, names = config.hardware, scorer_dtype(config), references(config)[0]
    longest = min(LONGEST, config.training.max_response_tokens)
    decoder = MixtureDecoder({START: start}, hardware.device, dtype, hardware.probe_cache_bytes)
    answers = {
        domain: decoder.decode((START,), lambda logp_V: logp_V, own, longest, end_ids, config.training.seed)
        for domain, own in prompts.items()
    }
    del decoder  # its memory is the scorer's now
    models = {START: start, **references(config)[1]}
    scorer = SharedScorer(models, hardware.device, dtype, config.scorer.tokens_per_batch, canary=False)
    for domain, own in prompts.items():
        answered = [
            Scored((*prompt, *answer.token_ids), len(answer.token_ids))
            for prompt, answer in zip(own, answers[domain], strict=True)
            if answer.token_ids
        ]
        student, reference = (_response_logp(scorer, name, answered) for name in (START, names[domain]))
        yield float((student - reference).abs().mean()) if answered else 0.0
    if hardware.device != "cpu":
        del scorer
        torch.cuda.empty_cache()


def _response_logp(scorer: SharedScorer, model: str, sequences: Sequence[Scored]) -> torch.Tensor:
    """Log-probabilities of all response tokens under the model, logp_J."""
    import torch

    scores = scorer.score(model, list(sequences))
    parts = [
        logp_T[sequence.scoring_positions.start : sequence.scoring_positions.stop]
        for sequence, logp_T in zip(sequences, scores, strict=True)
    ]
    return torch.cat(parts) if parts else torch.zeros(0)
