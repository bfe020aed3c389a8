"""`make cluster-demo`: what an operator does, on a cluster of three nodes on this machine. No part of the product.

`place` holds processes, `cluster` is Ray's, `prometheus` looks, `story` is what is done, `seen` what Prometheus has of
it, `verdict` what must be true of that, and `picture` draws it.
"""
