"""Scores and circuits in other people's files: EAP-IG's graphs and MIB's submissions."""

from workbench.interchange.eap_ig import Foreign, ForeignFileError, check_model, to_json, to_pt
from workbench.interchange.files import read
from workbench.interchange.mib import PERCENTAGES, folder_name, write_circuits, write_importances

__all__ = [
    "PERCENTAGES",
    "Foreign",
    "ForeignFileError",
    "check_model",
    "folder_name",
    "read",
    "to_json",
    "to_pt",
    "write_circuits",
    "write_importances",
]
