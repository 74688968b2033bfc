"""Servers that stand together: replicas, Sentinel trios, clusters; each as a ``with`` block."""

from ._cluster import SLOTS, Cluster, cluster
from ._nodes import Nodes
from ._replicas import Replicas, replicas
from ._sentinels import Trio, sentinels

__all__ = ["SLOTS", "Cluster", "Nodes", "Replicas", "Trio", "cluster", "replicas", "sentinels"]
