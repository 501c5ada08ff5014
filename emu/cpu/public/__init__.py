"""The engine that needs nothing but Unicorn's public API: slower, for where the fast one does not work.

`engine.py` is the run loop; events, page walks and device accesses are carried out in Python beside it.
"""
