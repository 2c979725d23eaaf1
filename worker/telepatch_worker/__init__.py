"""The worker: loads a model, plans and runs jobs on it, stores their results. The only room that knows PyTorch."""
