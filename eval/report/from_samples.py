"""From graded samples to scores, paired comparisons, disagreements and shares of the way to the teachers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from eval.report.data import (
    DISTILLED,
    MODES,
    OPD_BASELINE,
    BenchmarkInfo,
    ComparisonRow,
    Evaluation,
    ModelInfo,
    ModelRow,
    benchmark_key,
    decodings,
    pool_key,
    primary_benchmark,
    student_of,
)
from eval.report.sections.disagreements import find_disagreements
from eval.report.sections.headroom import DecodingShare, Headroom, find_headroom, find_share
from eval.report.sections.scores import score_samples

if TYPE_CHECKING:
    from eval.jobs import ModelUnderTest
    from eval.records import Mode, Sample


def from_samples(
    samples: Mapping[tuple[str, str], Sequence[Sample]],
    models: Sequence[ModelInfo | ModelUnderTest],
    benchmarks: Sequence[BenchmarkInfo],
    seed: int,
) -> Evaluation:
    """Scores, paired comparisons and disagreements from graded samples.

    `samples` maps (model, benchmark) to that model's answers; the modes may be mixed in one list or
    come under their own keys, since every sample names its mode. `benchmarks` declares every key that
    should have been measured. A domain with several benchmarks gets a pool over their problems at each
    decoding, in which every problem counts once; `seed` is that of the bootstrap.
    """
    graded = _by_key(samples)
    infos = _with_pools(benchmarks)
    _add_pools(graded, models, infos)
    votable = _with_final_answers(graded, infos)
    rows = []
    for model in sorted((_info(model) for model in models), key=lambda m: m.place):
        keys = [b.name for b in infos if graded.get((model.name, b.name))]
        scores = {key: score_samples(graded[model.name, key], key in votable) for key in keys}
        rows.append(ModelRow(model.name, model.role, model.domain, model.path, scores))
    student = student_of(rows)
    return Evaluation(
        models=tuple(rows),
        benchmarks=infos,
        comparisons=tuple(_comparisons(graded, student, rows, infos, seed)),
        disagreements=tuple(
            find_disagreements(
                domain=teacher.domain,
                teacher=teacher.name,
                student_samples=_answers(graded, student.name, teacher.domain, infos),
                teacher_samples=_answers(graded, teacher.name, teacher.domain, infos),
            )
            for teacher in rows
            if teacher.role == "teacher" and teacher.domain is not None
        ),
        headroom=tuple(_headroom(graded, rows, infos, seed)),
        before_polish=tuple(_before_polish(graded, rows, infos, seed)),
        shares=tuple(_share(graded, rows, infos, mode, seed) for mode in decodings(infos)),
    )


def _info(model: ModelInfo | ModelUnderTest) -> ModelInfo:
    return ModelInfo(model.name, model.role, model.domain, None if model.path is None else str(model.path))


Graded = dict[tuple[str, str], list["Sample"]]


def _by_key(samples: Mapping[tuple[str, str], Sequence[Sample]]) -> Graded:
    graded: Graded = {}
    for (model, _), answers in samples.items():
        for answer in answers:
            graded.setdefault((model, benchmark_key(answer.benchmark, answer.mode)), []).append(answer)
    return graded


def _with_pools(benchmarks: Sequence[BenchmarkInfo]) -> tuple[BenchmarkInfo, ...]:
    """The benchmarks, each domain's pools before their members."""
    infos: list[BenchmarkInfo] = []
    for domain in dict.fromkeys(b.domain for b in benchmarks):
        own = [b for b in benchmarks if b.domain == domain]
        for mode in MODES:
            members = tuple(b.name for b in own if b.mode == mode)
            if len(members) > 1:
                description = f"all problems of {', '.join(members)}, each counting once"
                key = pool_key(domain, mode)
                infos.append(BenchmarkInfo(key, domain, mode, description, None, members))
        infos.extend(own)
    return tuple(infos)


def _add_pools(
    graded: Graded, models: Sequence[ModelInfo | ModelUnderTest], infos: Sequence[BenchmarkInfo]
) -> None:
    """A model that lacks one member of a pool has no pooled score: it would not be comparable."""
    for info in infos:
        for model in models:
            parts = [graded.get((model.name, member), []) for member in info.pools]
            if parts and all(parts):
                graded[model.name, info.name] = [
                    replace(s, problem_id=f"{s.benchmark}/{s.problem_id}") for part in parts for s in part
                ]


def _with_final_answers(graded: Graded, infos: Sequence[BenchmarkInfo]) -> set[str]:
    """Keys of the benchmarks, and of the pools of such, whose answers can be voted on."""
    from eval.statistics.at_k import has_final_answers

    own = {key for (_, key), answers in graded.items() if has_final_answers(answers)}
    return {info.name for info in infos if own.issuperset(info.pools or (info.name,))}


def _comparisons(
    graded: Graded, student: ModelRow, rows: Sequence[ModelRow], infos: Sequence[BenchmarkInfo], seed: int
) -> Iterator[ComparisonRow]:
    """A model, such as the student, against every other one, wherever both have a judged answer to the same
    problem."""
    from eval.statistics.compare import compare

    for info in infos:
        ours = graded.get((student.name, info.name), [])
        for other in rows:
            theirs = graded.get((other.name, info.name), [])
            if other.name == student.name or not _have_common_problem(ours, theirs):
                continue
            result = compare(ours, theirs, seed)
            yield ComparisonRow(
                model=student.name,
                against=other.name,
                benchmark=info.name,
                difference=result.difference,
                lo=result.lo,
                hi=result.hi,
                n=result.n,
                p_value=result.p_value,
                spread=result.spread,
                unscored=result.unscored,
            )


def _before_polish(
    graded: Graded, rows: Sequence[ModelRow], infos: Sequence[BenchmarkInfo], seed: int
) -> Iterator[ComparisonRow]:
    """The distilled student against base, OPD and each benchmark's own teachers."""
    for distilled in (row for row in rows if row.name == DISTILLED):
        for info in infos:
            others = [
                row
                for row in rows
                if row.role == "base"
                or row.name == OPD_BASELINE
                or (row.role == "teacher" and row.domain == info.domain)
            ]
            yield from _comparisons(graded, distilled, others, [info], seed)


def _have_common_problem(ours: Sequence[Sample], theirs: Sequence[Sample]) -> bool:
    """Whether a problem is left once `compare` drops unscored answers and their partners."""
    dropped = {_pair(answer) for answer in (*ours, *theirs) if answer.verdict == "unscored"}
    left = [{a.problem_id for a in side if _pair(a) not in dropped} for side in (ours, theirs)]
    return bool(left[0] & left[1])


def _pair(answer: Sample) -> tuple[str, int]:
    return answer.problem_id, answer.index


def _headroom(
    graded: Graded, rows: Sequence[ModelRow], infos: Sequence[BenchmarkInfo], seed: int
) -> Iterator[Headroom]:
    """Of every domain that has a benchmark and a teacher, by the benchmark it is judged by."""
    for domain in _domains(infos):
        info = primary_benchmark(infos, domain)
        assert info is not None, "it is the domain of a benchmark"
        teacher, sides = _own_teacher(rows, domain), _sides(graded, rows, domain, info)
        if teacher is not None and (found := find_headroom(domain, info.name, sides, teacher, seed)):
            yield found


def _share(
    graded: Graded, rows: Sequence[ModelRow], infos: Sequence[BenchmarkInfo], mode: Mode, seed: int
) -> DecodingShare:
    """Over every domain that has a benchmark."""
    judged = {domain: primary_benchmark(infos, domain, mode) for domain in _domains(infos)}
    return find_share(
        mode,
        {domain: _sides(graded, rows, domain, info) if info else {} for domain, info in judged.items()},
        seed,
    )


def _sides(
    graded: Graded, rows: Sequence[ModelRow], domain: str, info: BenchmarkInfo
) -> dict[str, list[Sample]]:
    """What student, the domain's own teacher and the base answered."""
    base = next((model.name for model in rows if model.role == "base"), None)
    names = {"student": student_of(rows).name, "teacher": _own_teacher(rows, domain), "base": base}
    return {role: graded.get((name or "", info.name), []) for role, name in names.items()}


def _domains(infos: Sequence[BenchmarkInfo]) -> list[str]:
    return list(dict.fromkeys(info.domain for info in infos))


def _own_teacher(rows: Sequence[ModelRow], domain: str) -> str | None:
    return next((m.name for m in rows if m.role == "teacher" and m.domain == domain), None)


def _answers(graded: Graded, model: str, domain: str, infos: Sequence[BenchmarkInfo]) -> list[Sample]:
    own = [b for b in infos if b.domain == domain and not b.pools]
    return [answer for info in own for answer in graded.get((model, info.name), [])]
