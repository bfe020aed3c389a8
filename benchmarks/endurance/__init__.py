"""Whether a run's memory stays what it is: a real run of very many tiny groups, watched from outside."""
