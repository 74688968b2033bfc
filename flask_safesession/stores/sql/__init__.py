"""Stores in SQL databases: the engine over tables of rows."""
