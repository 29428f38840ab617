"""Tile programs over attention. Empty so far: streaming statistics and sparse normalisers will live here."""
