"""Fuzzing: targets in C (`c_targets`, libFuzzer) and readers in Python (`readers`)."""
