"""Circuits: the edge graph, tasks, discovery, patching, evaluation."""

from workbench.circuits import tasks
from workbench.circuits.agreement import Agreement, agreement
from workbench.circuits.cdt_search import cdt_search
from workbench.circuits.completeness import Completeness, completeness
from workbench.circuits.controls import (
    RandomControl,
    UntrainedControl,
    random_circuit,
    random_control,
    untrained_control,
)
from workbench.circuits.evaluate import Evaluation, FaithfulnessCurve, evaluate, faithfulness_curve
from workbench.circuits.graph import Circuit, Graph, Scores
from workbench.circuits.ground_truth import GroundTruth, ground_truth
from workbench.circuits.methods import Method, discover, methods
from workbench.circuits.minimality import Minimality, minimality
from workbench.circuits.neurons import (
    NeuronEdges,
    NeuronEvaluation,
    NeuronScores,
    evaluate_neurons,
    neuron_edges,
    neuron_scores,
)
from workbench.circuits.optimal import OptimalConstants, optimal_constants
from workbench.circuits.positions import PositionCircuit, PositionScores, evaluate_positions, position_scores
from workbench.circuits.progress import Progress, Stopped
from workbench.circuits.stability import (
    CurveInterval,
    PromptStability,
    SeedStability,
    curve_interval,
    prompt_stability,
    seed_stability,
)
from workbench.circuits.task import Task, TaskCheck

__all__ = [
    "Agreement",
    "Circuit",
    "Completeness",
    "CurveInterval",
    "Evaluation",
    "FaithfulnessCurve",
    "Graph",
    "GroundTruth",
    "Method",
    "Minimality",
    "NeuronEdges",
    "NeuronEvaluation",
    "NeuronScores",
    "OptimalConstants",
    "PositionCircuit",
    "PositionScores",
    "Progress",
    "PromptStability",
    "RandomControl",
    "Scores",
    "SeedStability",
    "Stopped",
    "Task",
    "TaskCheck",
    "UntrainedControl",
    "agreement",
    "cdt_search",
    "completeness",
    "curve_interval",
    "discover",
    "evaluate",
    "evaluate_neurons",
    "evaluate_positions",
    "faithfulness_curve",
    "ground_truth",
    "methods",
    "minimality",
    "neuron_edges",
    "neuron_scores",
    "optimal_constants",
    "position_scores",
    "prompt_stability",
    "random_circuit",
    "random_control",
    "seed_stability",
    "tasks",
    "untrained_control",
]
