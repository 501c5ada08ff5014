"""The few machine-code thunks: C source, the reproducible build, the committed bytes, the loader."""
