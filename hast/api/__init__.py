"""The engine from Python: the same loops as the pipeline, on networks and banks in memory.

A teacher is never changed: every function works on a frozen copy. Further keywords are the
parameters of the section that a function names; a wrong one raises `hast.InputError`.
"""
