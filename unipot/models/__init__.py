"""Backbones, heads and the potential they make. Nothing here knows where data come from."""

from unipot.models.backbone import AtomFeatures, Backbone
from unipot.models.core_repulsion import CoreRepulsion
from unipot.models.heads import Head, HeadBank
from unipot.models.potential import Potential
from unipot.models.references import CompositionReference
from unipot.models.registry import backbone_names, build_backbone, register_backbone

__all__ = [
    "AtomFeatures",
    "Backbone",
    "CompositionReference",
    "CoreRepulsion",
    "Head",
    "HeadBank",
    "Potential",
    "backbone_names",
    "build_backbone",
    "register_backbone",
]
