"""Circuits: the edge graph, tasks, discovery, patching, evaluation."""

from workbench.circuits import tasks
from workbench.circuits.evaluate import Evaluation, FaithfulnessCurve, evaluate, faithfulness_curve
from workbench.circuits.graph import Circuit, Graph, Scores
from workbench.circuits.ground_truth import GroundTruth, ground_truth
from workbench.circuits.methods import Method, discover, methods
from workbench.circuits.progress import Progress, Stopped
from workbench.circuits.task import Task, TaskCheck

__all__ = [
    "Circuit",
    "Evaluation",
    "FaithfulnessCurve",
    "Graph",
    "GroundTruth",
    "Method",
    "Progress",
    "Scores",
    "Stopped",
    "Task",
    "TaskCheck",
    "discover",
    "evaluate",
    "faithfulness_curve",
    "ground_truth",
    "methods",
    "tasks",
]
