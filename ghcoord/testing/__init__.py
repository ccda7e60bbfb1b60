"""What tests of ghcoord, and of programs that use it, need: clocks, faults, contracts, a simulation.

Shipped with the package.  The contracts need pytest; nothing here is imported
by the rest of ghcoord.
"""
