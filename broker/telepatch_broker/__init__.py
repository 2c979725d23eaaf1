"""Queues, results and who serves whom: the only room that knows Redis, RQ and the blob store."""
