"""An executable model of the two-store session protocol, explored breadth first.

Run it with `python -m tests.model` (all runs) or `python -m tests.model fill lease` (those whose name has these words).
"""
