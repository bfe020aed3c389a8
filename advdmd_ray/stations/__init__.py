"""The stations between controller and learner: rollout, reward, buffer and weights, and the records between them.

Nothing here knows of Ray: a station is the same in one process and behind an actor.
"""
