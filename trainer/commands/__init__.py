"""One file a verb: its typed function, its arguments and help, what it prints.

Heavy imports happen inside functions.
"""
