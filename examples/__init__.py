"""Published blocks and networks made of the layers of this package: a file for each paper.

`examples.tasks` has scripts: whole tasks, from the data to the figures.

They are not part of the installed package. Copy a file, with `sequences.py`, into a project of
yours, or import it from a checkout: `from examples.quartznet import QuartzNet`.
"""
