"""Policies: pure functions from snapshot to plan."""

from __future__ import annotations

from pilotlight.scheduler.policies.draft import Draft
from pilotlight.scheduler.policies.policy import Policy
from pilotlight.scheduler.policies.random import RandomNode
from pilotlight.scheduler.policies.serverlessllm import ServerlessLLM

__all__ = ["Draft", "Policy", "RandomNode", "ServerlessLLM"]
