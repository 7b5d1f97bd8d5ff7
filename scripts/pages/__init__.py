"""The pages that state measured figures, a module each: its tables from the records, and what its sentences say.

A module here with a `PAGE` is found by being here. `scripts/remake.py` writes the tables, `tests/test_pages.py` makes
them again and holds the sentences against the records.
"""
