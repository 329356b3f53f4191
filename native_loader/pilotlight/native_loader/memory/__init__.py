"""The pool that checkpoints are loaded into, and views of it."""
