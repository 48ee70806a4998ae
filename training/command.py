"""`galen train`: recipes, merging LoRA, and exporting a run's newest checkpoint.

Run: python -m training.command RECIPE --set key=value ...

What does *not* live here: the training itself (`run.py`), which is imported when it is needed, so
that help and mistakes come at once.
"""
