"""The HTTP door: OpenAI's API, health and metrics."""
