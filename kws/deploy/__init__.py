"""From a bundle to a board: emit, build, fit check, flash, run, listen."""
