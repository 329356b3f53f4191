"""The loader's verbs: pack, inspect, verify, load."""
