"""Everything the report shows, as frozen records, and how they are made from graded samples.

Accuracies and differences are in [0, 1] and [-1, 1]. Three things stay apart everywhere: a model that
was not measured on a benchmark has no `Score` there, an answer that could not be judged is counted in
`Score.unscored`, and a wrong answer lowers `Score.accuracy`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from eval.records import is_asked
from eval.report.sections.disagreements import Disagreements, find_disagreements
from eval.report.sections.headroom import Headroom, find_headroom
from eval.report.sections.polished import PolishUse
from eval.report.sections.probed import ProbedDomain
from eval.report.sections.prompts import PromptUse
from eval.report.sections.router import RouterSection
from eval.report.sections.scores import Score, score_samples
from eval.report.sections.trained_lambda import Trained

if TYPE_CHECKING:
    from eval.jobs import ModelUnderTest
    from eval.records import Mode, Sample

Role = Literal["base", "teacher", "student", "baseline"]
Outcome = Literal["beats", "matches within noise", "below", "not measured"]

ROLES: tuple[Role, ...] = ("student", "teacher", "base", "baseline")
"""Every role, in the order in which models are shown."""

OPD_BASELINE = "opd"
"""Name of the baseline model that is trained by plain on-policy distillation (reward scale 1)."""

ORACLE_BASELINE = "oracle"
"""Name of the routed oracle, whose answers are those of each benchmark's own teacher."""


OPD_MORE_BASELINE = "opd_more"
"""Name of the distilled student after more distillation, for as many rollouts as the polish took."""

DISTILLED = "distilled"
"""Name of the student as it was before its polish."""


@dataclass(frozen=True)
class ModelInfo:
    """Who a model is."""

    name: str
    role: Role
    domain: str | None = None
    """The domain of a teacher, or of a baseline that is about one domain alone; None for the others."""
    path: str | None = None

    def is_asked(self, domain: str) -> bool:
        """Whether it answers the benchmarks of this domain."""
        return is_asked(self.role, self.domain, domain)

    @property
    def place(self) -> tuple[int, int]:
        """Where it is shown: by role, the distilled student beside the student, controls beside teachers."""
        if self.name == DISTILLED:
            return ROLES.index("student"), 1
        own = self.role == "baseline" and self.domain is not None
        return (ROLES.index("teacher"), 1) if own else (ROLES.index(self.role), 0)


@dataclass(frozen=True)
class ModelRow(ModelInfo):
    """A model and its scores by benchmark key; a key that is absent was not measured."""

    scores: Mapping[str, Score] = field(default_factory=dict)


@dataclass(frozen=True)
class BenchmarkInfo:
    """One benchmark in one mode; `name` is its key, see `benchmark_key`."""

    name: str
    domain: str
    mode: Mode
    description: str = ""
    ceiling: float | None = None
    """Share of the benchmark's own reference solutions that its grader accepts; None: not checked."""
    pools: tuple[str, ...] = ()
    """Keys of the benchmarks whose problems this one pools; empty for a benchmark of its own."""


@dataclass(frozen=True)
class ComparisonRow:
    """The student minus another model on the problems both answered; the 95% interval is paired."""

    model: str
    against: str
    benchmark: str
    difference: float
    lo: float
    hi: float
    n: int
    p_value: float | None
    verdict: Outcome
    unscored: int = 0
    """Answers of either side left out because one of a pair could not be judged."""
    p_adjusted: float | None = None
    """`p_value` corrected for all comparisons of the report (Holm); None before `build`."""
    family: int = 0
    """How many comparisons it is corrected for."""


@dataclass(frozen=True)
class DomainVerdict:
    """One sentence about one domain; the first of a domain is about its own teacher."""

    domain: str
    against: str
    role: Role
    benchmark: str | None
    outcome: Outcome
    sentence: str


@dataclass(frozen=True)
class Evaluation:
    """What the graded samples say."""

    models: tuple[ModelRow, ...]
    benchmarks: tuple[BenchmarkInfo, ...]
    comparisons: tuple[ComparisonRow, ...]
    disagreements: tuple[Disagreements, ...] = ()
    headroom: tuple[Headroom, ...] = ()
    before_polish: tuple[ComparisonRow, ...] = ()
    """The distilled student minus base, own teachers and OPD; empty where the student was not polished."""


@dataclass(frozen=True)
class ReportData:
    """The whole report."""

    run: str
    created: str
    """Date and time, as shown."""
    config_yaml: str
    """The config, verbatim."""
    domains: tuple[str, ...]
    verdicts: tuple[DomainVerdict, ...]
    opd_sentence: str
    """Whether the student beats plain OPD, or that this was not measured."""
    models: tuple[ModelRow, ...]
    benchmarks: tuple[BenchmarkInfo, ...]
    comparisons: tuple[ComparisonRow, ...]
    disagreements: tuple[Disagreements, ...] = ()
    curves: Mapping[str, Sequence[Mapping[str, float]]] = field(default_factory=dict)
    """Metrics of every step by stage: `expert <domain>`, `merge`, `baseline <name>`."""
    wall_seconds: Mapping[str, float] = field(default_factory=dict)
    peak_memory_bytes: int | None = None
    provenance: Mapping[str, str] = field(default_factory=dict)
    """Versions, machine, commit, seeds, fingerprints."""
    notes: tuple[str, ...] = ()
    """Alarms and further limits of this run."""
    limits: tuple[str, ...] = ()
    """What the report does not show."""
    objective: Mapping[str, float] = field(default_factory=dict)
    """Reward scale of each domain, as declared or chosen by a probe."""
    trained_lambda: Trained = field(default_factory=dict)
    """Reward scale of each domain, as the student was trained."""
    routing: Mapping[str, int] = field(default_factory=dict)
    """Rows of each domain that the merge was to train on."""
    trained: Mapping[str, int] = field(default_factory=dict)
    """Rows of each domain that it trained on; a domain that is absent was not measured."""
    prompts: PromptUse = field(default_factory=PromptUse)
    """What became of the prompts."""
    router: RouterSection | None = None
    """What the router tells of itself; None where labels decided alone."""
    probed: tuple[ProbedDomain, ...] = ()
    """Domains whose reward scale was chosen by a probe."""
    headroom: tuple[Headroom, ...] = ()
    """A domain that is absent has no teacher, no benchmark or no common problem with the base."""
    before_polish: tuple[ComparisonRow, ...] = ()
    """As of `Evaluation`."""
    polished: PolishUse | None = None
    """None where the student was not polished."""

    @property
    def student(self) -> ModelRow:
        """The one model with the role `student`."""
        return student_of(self.models)

    def comparison(self, against: str, benchmark: str) -> ComparisonRow | None:
        """The student against this model on this benchmark, None where not measured."""
        return find_comparison(self.comparisons, against, benchmark)


def benchmark_key(name: str, mode: Mode) -> str:
    """Key of a benchmark's scores: the name alone for sampled answers, `name@greedy` for greedy ones."""
    return name if mode == "sampled" else f"{name}@greedy"


def pool_key(domain: str) -> str:
    """Key of a domain's pooled benchmarks; a colon is in no benchmark's name."""
    return f"domain:{domain}"


def student_of(models: Sequence[ModelRow]) -> ModelRow:
    """The one student among the models."""
    students = [model for model in models if model.role == "student"]
    assert len(students) == 1, f"a report needs exactly one student, got {[m.name for m in students]}"
    return students[0]


def find_comparison(
    comparisons: Sequence[ComparisonRow], against: str, benchmark: str
) -> ComparisonRow | None:
    """The comparison with this model on this benchmark, if there is one."""
    return next((c for c in comparisons if c.against == against and c.benchmark == benchmark), None)


def primary_benchmark(benchmarks: Sequence[BenchmarkInfo], domain: str) -> BenchmarkInfo | None:
    """The benchmark a domain is judged by: its pool, else its sampled benchmark, else its greedy one."""
    own = [b for b in benchmarks if b.domain == domain]
    return min(own, key=lambda b: (not b.pools, b.mode != "sampled"), default=None)


# ------------------------------------------------------------------------------------ from samples


def from_samples(
    samples: Mapping[tuple[str, str], Sequence[Sample]],
    models: Sequence[ModelInfo | ModelUnderTest],
    benchmarks: Sequence[BenchmarkInfo],
    seed: int,
) -> Evaluation:
    """Scores, paired comparisons and disagreements from graded samples.

    `samples` maps (model, benchmark) to that model's answers; the modes may be mixed in one list or
    come under their own keys, since every sample names its mode. `benchmarks` declares every key that
    should have been measured. A domain with several sampled benchmarks gets a pool over their problems,
    in which every problem counts once; `seed` is that of the bootstrap.
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
    """The benchmarks, each domain's pool before its members."""
    infos: list[BenchmarkInfo] = []
    for domain in dict.fromkeys(b.domain for b in benchmarks):
        own = [b for b in benchmarks if b.domain == domain]
        members = tuple(b.name for b in own if b.mode == "sampled")
        if len(members) > 1:
            description = f"all problems of {', '.join(members)}, each counting once"
            infos.append(BenchmarkInfo(pool_key(domain), domain, "sampled", description, None, members))
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
                verdict=result.verdict,
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
    base = next((model.name for model in rows if model.role == "base"), "")
    for domain in dict.fromkeys(info.domain for info in infos):
        teacher = next((m.name for m in rows if m.role == "teacher" and m.domain == domain), None)
        info = primary_benchmark(infos, domain)
        assert info is not None, "it is the domain of a benchmark"
        names = {"student": student_of(rows).name, "teacher": teacher, "base": base}
        sides = {role: graded.get((name, info.name), []) for role, name in names.items()}
        if teacher is not None and (found := find_headroom(domain, info.name, sides, teacher, seed)):
            yield found


def _answers(graded: Graded, model: str, domain: str, infos: Sequence[BenchmarkInfo]) -> list[Sample]:
    own = [b for b in infos if b.domain == domain and not b.pools]
    return [answer for info in own for answer in graded.get((model, info.name), [])]


# ------------------------------------------------------------------------------------------- build
