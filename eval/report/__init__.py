"""The report of a run: what was measured (`data`), how it is said (`wording`), how it is shown (`render`)."""
