"""Rivals against each other at equal learner compute: the jobs, the processes that do them, table and figure."""
