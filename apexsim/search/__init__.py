"""Which plan: the space of plans, what is dropped unseen, the evaluation of the rest, and their order."""
