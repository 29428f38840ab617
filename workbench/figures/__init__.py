"""Pictures of results: our own SVG from plain data. A figure never computes a result."""

from workbench.figures.agreement import agreement_map
from workbench.figures.all_heads import all_heads
from workbench.figures.attention_pair import attention_pair
from workbench.figures.attention_pattern import attention_pattern, head_grid
from workbench.figures.bench import bench_figure
from workbench.figures.circuit_graph import circuit_graph
from workbench.figures.contribution_map import contribution_map
from workbench.figures.curves import Line, curves
from workbench.figures.faithfulness import faithfulness_curve, faithfulness_plot
from workbench.figures.figure import Figure, standalone
from workbench.figures.ground_truth import precision_recall, roc_curve
from workbench.figures.head_map import head_map
from workbench.figures.interaction import interaction_js
from workbench.figures.lens_grid import lens_grid
from workbench.figures.matrix import matrix
from workbench.figures.overlay import Picture
from workbench.figures.patch_contributions import patch_contributions, patch_groups
from workbench.figures.patch_heads import patch_heads
from workbench.figures.patch_maps import patch_maps
from workbench.figures.patches import patch_attention, patch_grid
from workbench.figures.path_chains import path_chains
from workbench.figures.path_flow import path_flow
from workbench.figures.path_lengths import path_lengths
from workbench.figures.path_tables import length_positions, path_kinds
from workbench.figures.phrase_tree import phrase_tree
from workbench.figures.positions import position_map
from workbench.figures.program_flow import program_flow
from workbench.figures.scatter import scatter
from workbench.figures.signed_bars import before_after, signed_bars
from workbench.figures.svg import show_token
from workbench.figures.token_contributions import token_contributions

__all__ = [
    "Figure",
    "Line",
    "Picture",
    "agreement_map",
    "all_heads",
    "attention_pair",
    "attention_pattern",
    "before_after",
    "bench_figure",
    "circuit_graph",
    "contribution_map",
    "curves",
    "faithfulness_curve",
    "faithfulness_plot",
    "head_grid",
    "head_map",
    "interaction_js",
    "length_positions",
    "lens_grid",
    "matrix",
    "patch_attention",
    "patch_contributions",
    "patch_grid",
    "patch_groups",
    "patch_heads",
    "patch_maps",
    "path_chains",
    "path_flow",
    "path_kinds",
    "path_lengths",
    "phrase_tree",
    "position_map",
    "precision_recall",
    "program_flow",
    "roc_curve",
    "scatter",
    "show_token",
    "signed_bars",
    "standalone",
    "token_contributions",
]
