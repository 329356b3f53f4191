"""Decides which model starts where, so that it answers soonest.

`embedding` has the scheduler for use inside another program, `core` and
`policies` what policies and simulators are written against. Nothing is imported
here: the command starts in a tenth of a second because of that.
"""
