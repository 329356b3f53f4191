"""The users' gRPC service; its generated code is imported by adapters only."""
