"""The text of the config that `protege init` writes: the template, and what its comments name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.blocks.baselines import BaselineName
from configs.blocks.objective import EstimatorName
from configs.reading.shape import blocks, names
from configs.schema import Domain
from merging.init import blocks as parts
from merging.init.sizes import Sizes

if TYPE_CHECKING:
    import yaml

TEMPLATE = "merge.yaml.jinja"


def render(
    *, domains: list[dict[str, Any]], shared: dict[str, Any], device: str, sizes: Sizes, **shown: Any
) -> str:
    """The config as text, comments included; what it says is not checked here."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters |= {"yaml": as_yaml, "comment": as_comment}
    small = "small numbers, so that a CPU is done in minutes to hours"
    return environment.get_template(TEMPLATE).render(
        domains=[domain | {"expert": _with_sizes(domain["expert"], sizes)} for domain in domains],
        shared=shared,
        device=device,
        sizes=sizes,
        kinds=_kinds(),
        sizes_why=small if device == "cpu" else "the paper's numbers (arXiv 2602.12125)",
        estimator_why="the vocabulary is small enough to compare whole distributions"
        if sizes.estimator == "full"
        else "`full` and `topk` have less noise and send more",
        **_baselines(len(domains)),
        **shown,
    )


def _with_sizes(expert: parts.Block, sizes: Sizes) -> parts.Block:
    """An expert to be built, with its numbers unless the user gives some."""
    return {**expert, **sizes.expert} if expert == {"kind": "rl"} else expert


def _baselines(domains: int) -> dict[str, Any]:
    if domains > 1:
        return {
            "baselines": ["average"],
            "baselines_why": "the mean of the experts' weights costs no training",
        }
    return {"baselines": [], "baselines_why": "of one expert there is no average; `opd` is lambda 1"}


def _kinds() -> dict[str, list[str]]:
    """The alternatives that the comments name, as the schema has them."""
    return {
        "expert": list(parts.EXPERTS),
        "prompts": list(blocks(Domain.model_fields["prompts"].annotation)),
        "reward": [*parts.REWARDS, *(f"a block of kind {kind}" for kind in parts.REWARD_BLOCKS)],
        "benchmark": list(parts.BENCHMARKS),
        "standard": list(parts.STANDARD),
        "routing": list(parts.ROUTERS),
        "estimator": list(names(EstimatorName)),
        "baseline": list(names(BaselineName)),
    }


# -------------------------------------------------------------------------------------------- filters


def as_yaml(value: object) -> str:
    """A value in YAML's flow style, on one line."""
    import yaml

    text = yaml.dump(
        value,
        Dumper=_dumper(),
        default_flow_style=True,
        sort_keys=False,
        allow_unicode=True,
        width=float("inf"),
    )
    return text.removesuffix("\n").removesuffix("\n...")


def _dumper() -> type[yaml.SafeDumper]:
    import yaml

    from configs.reading.yaml_text import FLOAT

    class Dumper(yaml.SafeDumper):
        """Texts of several lines, and what is not printable, as one quoted line."""

        def ignore_aliases(self, data: object) -> bool:
            return True

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
        style = None if value.isprintable() else '"'
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    Dumper.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+.0123456789"))
    return Dumper


def as_comment(value: object) -> str:
    """A text that cannot end the comment that it stands in."""
    return "".join(character if character.isprintable() else " " for character in str(value))
