"""Boards one can read: chips, addresses, irqs."""
