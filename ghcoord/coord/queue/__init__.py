"""The queue inside a transaction: records, index, counts, gates and timers change together.

Every function takes a :class:`~ghcoord.store.tx.Tx` over ``fleet`` and does no I/O of its own.
"""
