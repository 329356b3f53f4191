"""What every Pilotlight process does the same way.

Settings, logs, tables, command-line pieces, ports and lifelines; import the
module that you need, for each of them brings its own third party.
"""
