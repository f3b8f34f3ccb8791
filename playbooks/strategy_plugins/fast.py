"""The linear strategy through mitogen: `make up FAST=1`. Its servers keep one Python process for the whole run."""

from ansible_mitogen.plugins.strategy.mitogen_linear import StrategyModule

__all__ = ["StrategyModule"]
