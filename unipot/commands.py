"""The commands as a table: what runs, which configuration it takes, what the help says of it. Nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass

#: headings of the help text, by what people do
TOPICS = {"data": "prepare data", "train": "train a model", "judge": "judge a model", "use": "use a model"}
#: commands that take words instead of settings: summary, and the topic they stand under
WORD_COMMANDS = {
    "recipes": ("list public datasets, show the card of one", "data"),
    "models": ("list backbones, show or verify a checkpoint", "judge"),
    "zoo": ("find, fetch, carry, publish and compare models by name", "use"),
    "completion": ("print what makes your shell complete commands and settings", "use"),
}


@dataclass(frozen=True, kw_only=True)
class Verb:
    """One command.

    Attributes:
        workflow: `module:function`, imported when the verb is run.
        schema: `module:dataclass` of its configuration.
        summary: one line for the help text.
        example: a full command line.
        kinds: words of which one must follow the verb; empty where settings follow at once.
        topic: heading of the help text that it stands under.
    """

    workflow: str
    schema: str
    summary: str
    example: str
    kinds: tuple[str, ...] = ()
    topic: str = ""


VERBS: dict[str, Verb] = {
    "prepare": Verb(
        topic="data",
        workflow="unipot.workflows.prepare:prepare",
        schema="unipot.workflows.settings.schema:PrepareConfig",
        summary="convert structures to a store, with a census",
        example="unipot prepare path=oc20.extxyz out=oc20.unipot level_of_theory=RPBE",
    ),
    "duplicates": Verb(
        topic="data",
        workflow="unipot.workflows.duplicates:duplicates",
        schema="unipot.workflows.duplicates:DuplicatesConfig",
        summary="frames of equal geometry within and across stores, and leakage",
        example="unipot duplicates stores=[train.unipot] held_out=[test.unipot]",
    ),
    "inspect": Verb(
        topic="data",
        workflow="unipot.workflows.inspect:inspect",
        schema="unipot.workflows.inspect:InspectConfig",
        summary="what stores hold, as one HTML page",
        example="unipot inspect stores=[oc20.unipot,mptrj.unipot] output=data.html",
    ),
    "pretrain": Verb(
        topic="train",
        workflow="unipot.workflows.pretrain:pretrain",
        schema="unipot.workflows.settings.schema:PretrainConfig",
        summary="train one model on a mixture of datasets",
        example="unipot pretrain run=runs/a datasets.oc20.path=oc20.unipot datasets.oc20.level_of_theory=RPBE",
    ),
    "finetune": Verb(
        topic="train",
        workflow="unipot.workflows.finetune:finetune",
        schema="unipot.workflows.finetuning.schema:FinetuneConfig",
        summary="adapt a trained model to your own frames",
        example="unipot finetune checkpoint=runs/a/best.safetensors data=mine.extxyz",
    ),
    "evaluate": Verb(
        topic="judge",
        workflow="unipot.workflows.evaluate:evaluate",
        schema="unipot.workflows.settings.schema:EvaluateConfig",
        summary="errors per dataset, property and element",
        example="unipot evaluate checkpoint=runs/a/best.safetensors data=test.extxyz",
    ),
    "study": Verb(
        topic="train",
        workflow="unipot.workflows.study:study",
        schema="unipot.workflows.studies.config:StudyConfig",
        summary="learning curves over frames, seeds, strategies and targets",
        example="unipot study learning-curve checkpoint=runs/a/best.safetensors data=mine.extxyz test_data=test.extxyz",
        kinds=("learning-curve",),
    ),
    "report": Verb(
        topic="judge",
        workflow="unipot.workflows.report:report",
        schema="unipot.workflows.report:ReportConfig",
        summary="one HTML page out of run folders",
        example="unipot report pretrain_run=runs/a finetune_runs=[runs/mine,runs/mine-scratch] output=report.html",
    ),
    "relax": Verb(
        topic="use",
        workflow="unipot.workflows.relax:relax",
        schema="unipot.workflows.relax:RelaxConfig",
        summary="relax a structure",
        example="unipot relax checkpoint=runs/a/best.safetensors structure=slab.extxyz",
    ),
    "md": Verb(
        topic="use",
        workflow="unipot.workflows.md:md",
        schema="unipot.workflows.md:MdConfig",
        summary="molecular dynamics",
        example="unipot md checkpoint=runs/a/best.safetensors structure=water.extxyz",
    ),
    "package": Verb(
        topic="use",
        workflow="unipot.workflows.package:package",
        schema="unipot.workflows.package:PackageConfig",
        summary="compile a model ahead of time for simulations",
        example="unipot package checkpoint=runs/a/best.safetensors out=model.pt2",
    ),
}
