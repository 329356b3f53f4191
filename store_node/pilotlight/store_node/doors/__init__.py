"""The node towards the outside: its service, and its session with the controller."""
