"""One piece of work over every I/O path, and what each cost.

`workloads` (the work and its pattern), `machines` and `backend` (where a path does it), `counts`, `budgets`
and `net_budgets` (what to expect), `markers` (what it cost), `measure` (one path), `fleet` and `guest`
(several guests at once), `report`, `html`. May import everything but the command line.
"""
