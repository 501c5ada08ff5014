"""One piece of work over every I/O path, and what each cost."""
