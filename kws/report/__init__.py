"""Pages of HTML that need no other file: a run, a sweep; and runs beside each other.

facts.py      what is known of a run: read, and measured
run.py        all of it as one page
operating.py  of that page: misses against false alarms
tape.py       of that page: what each step costs on tapes, under the spectrogram
sweep.py      of that page, and a page of its own: delta thresholds
compare.py    runs beside each other, and what differs in their recipes
plots.py      a sweep as pictures
shell.py      what every page has: style, terms, buttons that copy
"""
