"""Everything the report shows, as frozen records, and how they are made from graded samples.

Accuracies and differences are in [0, 1] and [-1, 1]. Three things stay apart everywhere: a model that
was not measured on a benchmark has no `Score` there, an answer that could not be judged is counted in
`Score.unscored`, and a wrong answer lowers `Score.accuracy`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from eval.records import is_asked
from eval.report.sections.disagreements import Disagreements
from eval.report.sections.headroom import DecodingShare, Headroom
from eval.report.sections.polished import PolishUse
from eval.report.sections.probed import ProbedDomain
from eval.report.sections.prompts import PromptUse
from eval.report.sections.router import RouterSection
from eval.report.sections.scores import Score
from eval.report.sections.trained_lambda import Trained

if TYPE_CHECKING:
    from eval.records import Mode

Role = Literal["base", "teacher", "student", "baseline"]
Outcome = Literal["beats", "level", "not decided", "below", "not measured"]
"""As `eval.statistics.questions`, or that nothing was measured."""
QuestionKind = Literal["own teacher", "best weight merge"]

ROLES: tuple[Role, ...] = ("student", "teacher", "base", "baseline")
"""Every role, in the order in which models are shown."""

OPD_BASELINE = "opd"
"""Name of the baseline model that is trained by plain on-policy distillation (reward scale 1)."""

ORACLE_BASELINE = "oracle"
"""Name of the routed oracle, whose answers are those of each benchmark's own teacher."""

OPD_MORE_BASELINE = "opd_more"
"""Name of the distilled student after more distillation, for as many rollouts as the polish took."""

WEIGHT_MERGES = ("average", "task_arithmetic", "ties", "dare", "extrapolation")
"""Names of the baselines that are computed from the experts' weights alone."""

DISTILLED = "distilled"
"""Name of the student as it was before its polish."""


MODES: tuple[Mode, ...] = ("sampled", "greedy")


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
    spread: float = 0.0
    """Standard deviation of the problems' differences."""
    unscored: int = 0
    """Answers of either side left out because one of a pair could not be judged."""
    verdict: Outcome = "not measured"
    """By the corrected p-value and the margin; "not measured" before `build`."""
    p_adjusted: float | None = None
    """`p_value` corrected for all questions of its family (Holm); None before `build`."""
    family: int = 0
    """How many questions it is corrected for."""
    primary: bool = False
    """Whether it is a question of the primary family."""


@dataclass(frozen=True)
class Question:
    """One question of the primary family, which is declared before anything is trained.

    The student against its own teacher, or against the best weight merge, in one domain at one decoding.
    """

    kind: QuestionKind
    domain: str
    mode: Mode
    benchmark: str | None
    """Key of the benchmark that the domain is judged by; None where it has none."""
    against: str | None
    """The other model; None where there is none."""
    row: ComparisonRow | None = None
    """None where it could not be measured."""
    absent: str = ""
    """Why it could not."""
    deciding: int | None = None
    """Problems that would decide it; None where it is decided, or no number up to 100,000 would."""

    @property
    def outcome(self) -> Outcome:
        """What was found."""
        return "not measured" if self.row is None else self.row.verdict


@dataclass(frozen=True)
class AllTeachers:
    """The claim that the student beats every teacher in its own domain, at every decoding."""

    p_value: float | None
    """Of the intersection (`eval.statistics.questions`); None where a part was not measured."""
    outcome: Literal["beats", "not shown", "not measured"]
    absent: str = ""
    """What was not measured."""


@dataclass(frozen=True)
class DomainVerdict:
    """One sentence about one domain and one other model, on the benchmark that the domain is judged by."""

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
    shares: tuple[DecodingShare, ...] = ()
    """Of the way from the base to the routed oracle, over all domains, at each decoding."""


@dataclass(frozen=True)
class ReportData:
    """The whole report."""

    run: str
    created: str
    """Date and time, as shown."""
    config_yaml: str
    """The config, verbatim."""
    domains: tuple[str, ...]
    temperature: float
    """At which the sampled answers were drawn."""
    margin: float
    """Difference that does not matter, in [0, 1]."""
    questions: tuple[Question, ...]
    """The primary family."""
    all_teachers: AllTeachers
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
    shares: tuple[DecodingShare, ...] = ()
    """As of `Evaluation`."""

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


def pool_key(domain: str, mode: Mode) -> str:
    """Key of a domain's pooled benchmarks; a colon is in no benchmark's name."""
    return benchmark_key(f"domain:{domain}", mode)


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


def primary_benchmark(
    benchmarks: Sequence[BenchmarkInfo], domain: str, mode: Mode | None = None
) -> BenchmarkInfo | None:
    """The benchmark a domain is judged by at a decoding: its pool, else its own; without a decoding at the
    sampled one, else greedy."""
    own = [b for b in benchmarks if b.domain == domain and mode in (None, b.mode)]
    return min(own, key=lambda b: (b.mode != "sampled", not b.pools), default=None)


def decodings(benchmarks: Sequence[BenchmarkInfo]) -> tuple[Mode, ...]:
    """The decodings that were evaluated, sampled first."""
    return tuple(mode for mode in MODES if any(b.mode == mode for b in benchmarks))


def best_merge(models: Sequence[ModelRow], benchmark: str) -> ModelRow | None:
    """The weight merge with the highest accuracy on a benchmark, of equal ones the first."""
    merges = [model for model in models if model.role == "baseline" and model.name in WEIGHT_MERGES]
    accuracies = [(score.accuracy, m) for m in merges if (score := m.scores.get(benchmark)) is not None]
    scored = [(accuracy, model) for accuracy, model in accuracies if accuracy is not None]
    return max(scored, key=lambda pair: pair[0])[1] if scored else None
