"""Programs that were learned from examples and written by ``python -m workbench.circuits.known.programs``."""
