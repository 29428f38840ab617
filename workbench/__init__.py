"""A mechanistic interpretability workbench."""
