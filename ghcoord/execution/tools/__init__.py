"""The tools that a worker offers; :mod:`ghcoord.execution.tools.registry` collects them."""
