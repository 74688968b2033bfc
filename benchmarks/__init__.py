"""What SafeSession costs, beside its neighbours: ``python -m benchmarks`` prints one table.

Nothing here is a timed test: no figure fails a build. Each target of the project is printed
with the figure that was measured and whether it was reached.
"""
