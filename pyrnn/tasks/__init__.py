"""Small tasks that networks are trained on: their batches are functions of a seed and a step."""

from pyrnn.tasks.base import Batch, Task, Trials
from pyrnn.tasks.decisions import ContextDecision, Decision, DelayedMatch, PerceptualDecision, WorkingMemory
from pyrnn.tasks.signals import FlipFlop, SineWave

__all__ = [
    "Batch",
    "ContextDecision",
    "Decision",
    "DelayedMatch",
    "FlipFlop",
    "PerceptualDecision",
    "SineWave",
    "Task",
    "Trials",
    "WorkingMemory",
]
