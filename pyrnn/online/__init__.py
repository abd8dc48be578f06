"""Step by step: networks for streams, and learning without going back in time."""

from pyrnn.online.approximate import RFLO, UORO, SnAp1
from pyrnn.online.learner import OnlineGradients
from pyrnn.online.rtrl import RTRL, BlockedRTRL
from pyrnn.online.stepper import Stepper

__all__ = [
    "RFLO",
    "RTRL",
    "UORO",
    "BlockedRTRL",
    "OnlineGradients",
    "SnAp1",
    "Stepper",
]
