"""Connect: how do units act on each other?"""

from patchclamp.connect.graph import Graph

__all__ = ["Graph"]
