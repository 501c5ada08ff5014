"""The vCPU: the Unicorn engine, its private fields, exceptions, interrupts, CPUID and symbols.

Knows the bus by the callables it is given and the interrupt controller by its two methods.
"""
