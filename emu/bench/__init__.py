"""What the machine itself costs: exits, instructions a second, interrupts, boots.

Each figure is a ratio of two things measured in turns in one run, as a number of microseconds says little
about another machine. May import everything but `cli` and `compare`; nothing but `cli` imports it.
"""
