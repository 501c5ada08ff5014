"""One piece of work over every I/O path, and what each cost.

`workloads` (the work and its pattern), `budgets` (the counts to expect), `measure` (one path, one machine),
`report`, `html`. May import everything but the command line.
"""
