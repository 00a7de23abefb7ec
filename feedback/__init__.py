"""Listeners in the loop: the listening app, the preference log, simulated listeners, the continuing loop."""
