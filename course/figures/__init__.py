"""The drawing of the notebooks, one module a lesson: arrays in, a matplotlib Figure out."""
